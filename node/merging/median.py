"""Coordinate rules: every entry is the middle of what contributors say, so nobody can push it beyond the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .average import weighted_sum
from .blocks import in_blocks
from .clipping import ClippedGossip
from .method import MergeMethod, Site
from .robust import Robust


@dataclass(frozen=True, slots=True)
class CoordinateMedian(MergeMethod):
    """Coordinate-wise median (Yin et al., arXiv 1803.01498); of an even number, the mean of the middle two.

    Everybody counts alike, whatever the weights, and zeros count: an entry that fewer than half change stays. While
    fewer than half are hostile every entry lies between the honest ones. Two contributors: their mean.
    """

    own_votes: ClassVar[bool] = True
    sparse: ClassVar[bool] = True

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the median."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        return middle(deltas, (len(deltas) - 1) // 2) if deltas else torch.zeros(())


@dataclass(frozen=True, slots=True)
class TrimmedMean(Robust):
    """Coordinate-wise trimmed mean (Yin et al., arXiv 1803.01498): the mean without the f lowest and f highest.

    Everybody counts alike, whatever the weights. Every entry lies between the honest ones. Fewer than 2 f + 1
    contributors: clipped gossip, tensor by tensor.
    """

    def withstand(self, f: int, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the trimmed mean."""
        return middle(deltas, f) if len(deltas) > 2 * f else ClippedGossip(f).merge(deltas, site)


def middle(rows: Sequence[Tensor], f: int) -> Tensor:
    """Return, entry by entry, the mean of more than 2 f rows without the f lowest and the f highest."""
    return in_blocks(lambda *blocks: middle_of_block(blocks, f), *rows)


def middle_of_block(rows: Sequence[Tensor], f: int) -> Tensor:
    """Return the same of rows that are worked on in one go."""
    # The highest rises to the end and the lowest sinks to the front, f times: ten times faster than torch.sort of five.
    left = list(rows)
    for _ in range(f):
        last = len(left) - 1
        for i in (*range(last), *reversed(range(last - 1))):
            left[i], left[i + 1] = torch.minimum(left[i], left[i + 1]), torch.maximum(left[i], left[i + 1])
        left = left[1:-1]
    return weighted_sum(left, [1 / len(left)] * len(left))
