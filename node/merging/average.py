"""The weighted mean, and the sum that other methods share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .method import MergeMethod, Reference


@dataclass(frozen=True, slots=True)
class WeightedMean(MergeMethod):
    """sum_i w_i d_i: gossip averaging (CHOCO, arXiv 1902.00340) of neighbours, a model soup (arXiv 2203.05482) of all.

    With symmetric weights it keeps the network's mean.
    """

    def merge(
        self, deltas: Sequence[Tensor], weights: Sequence[float], *, reference: Reference, seeds: Sequence[int]
    ) -> Tensor:
        """Return the weighted sum; own's share of a correction is 0."""
        return weighted_sum(deltas, weights)


def weighted_sum(deltas: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i w_i d_i in the given order, one delta in memory at a time; a 0-d zero of nothing."""
    total: Tensor | None = None
    for delta, weight in zip(deltas, weights, strict=True):
        total = delta * weight if total is None else total.add_(delta, alpha=weight)
    return torch.zeros(()) if total is None else total
