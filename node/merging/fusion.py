"""Arcee fusion: take over the entries that matter most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .alone import OneModelMethod, base_of
from .method import Site

NUDGE = 1e-8
"""Added to probabilities before their logarithm is taken."""


@dataclass(frozen=True, slots=True)
class ArceeFusion(OneModelMethod):
    """Arcee fusion (mergekit): entries of outstanding importance become the model's, the others stay the base's.

    Importance is |d| times the divergence KL(softmax(theta) || softmax(theta0)) along the last axis; an entry is
    taken if it reaches median + 1.5 (third - first quartile) of its tensor. Quartiles are entries of the sorted
    tensor, at the whole part of q (n - 1), and exact: mergekit draws a million entries of larger tensors. Where
    importance is the same everywhere, as in vectors of one element, all is taken.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"base"})

    def merge_one(self, delta: Tensor, site: Site) -> Tensor:
        """Return the delta's important entries."""
        if not delta.numel():
            return delta.clone()
        base = base_of(site)
        before, after, change = (site.split(vector)[0] for vector in (base, base + delta, delta))
        p, q = after.softmax(-1) + NUDGE, before.softmax(-1) + NUDGE
        importance = (change.abs() * (p * (p / q).log()).sum(-1, keepdim=True)).reshape(-1)
        first, median, third = quartiles(importance)
        return delta * (importance >= median + 1.5 * (third - first))


def quartiles(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entries of a flat tensor at the whole part of q (n - 1) in sorted order, as 0-d tensors.

    On the CPU by numpy's partition, which does not sort the rest.
    """
    first, median, third = ((len(x) - 1) * quarter // 4 for quarter in (1, 2, 3))
    if x.device.type == "cpu":
        parted = torch.from_numpy(np.partition(x.numpy(), (first, median, third)))
    else:
        parted = x.sort().values
    return parted[first], parted[median], parted[third]
