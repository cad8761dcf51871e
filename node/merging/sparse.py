"""Merge sparse task vectors at the cost of their entries: leave out what is zero in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .method import MergeMethod, Site


@dataclass(frozen=True, slots=True)
class Entries:
    """A flat vector that is zero but at `index` (int64, ascending); values are float32."""

    index: Tensor
    values: Tensor


def merge_sparse(method: MergeMethod, deltas: Sequence[Entries], site: Site) -> Entries:
    """Return what a method with `sparse = True` merges of these deltas; a base in `site` is that of all places.

    The method sees one column for each place that anybody has an entry for, in order: its results are those of whole
    vectors, and equal magnitudes still rank by place. Not for a `site` without contributors.
    """
    taken = torch.zeros(site.size, dtype=torch.bool, device=deltas[0].index.device)
    for delta in deltas:
        taken[delta.index] = True
    union = taken.nonzero().squeeze(1)
    column = torch.empty(site.size, dtype=torch.int32, device=taken.device)
    column[union] = torch.arange(len(union), dtype=torch.int32, device=taken.device)
    rows = []
    for delta in deltas:
        row = torch.zeros(len(union), device=taken.device)
        row[column[delta.index]] = delta.values
        rows.append(row)
    if site.base is not None:
        site = replace(site, base=site.base[union])
    return Entries(union, method.merge(rows, site))
