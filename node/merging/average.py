"""The weighted mean, and the sum that other methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .blocks import WIDE, Span
from .method import MergeMethod, Site

SMALLEST = 1e-8
"""Weights whose sum is closer to zero are not divided by it."""


@dataclass(frozen=True, slots=True)
class WeightedMean(MergeMethod):
    """sum_i w_i d_i / sum_i w_i: a model soup (arXiv 2203.05482), or gossip averaging of neighbours (arXiv 1902.00340).

    With symmetric weights gossip keeps the network's mean. Weights may be negative; where they cancel out, and with
    `normalize = false`, they are not divided by.
    """

    normalize: bool = True

    sparse: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean."""
        return weighted_sum(deltas, site.weights, divisor(site.weights) if self.normalize else 1.0)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum by mixing weights: own's share of it is 0."""
        return weighted_sum(deltas, site.weights[1:])


def divisor(weights: Sequence[float]) -> float:
    """Return what a weighted sum is divided by to become a mean, in float32 as it is; 1 where weights cancel out."""
    total = float(torch.tensor(weights, dtype=torch.float32).sum())
    return total if abs(total) > SMALLEST else 1.0


def weighted_sum(deltas: Sequence[Tensor], weights: Sequence[float], by: float = 1.0) -> Tensor:
    """Return sum_i w_i d_i / by in the given order; a 0-d zero of nothing.

    The sum is divided, not the weights: so halves and quarters of bfloat16 values stay exact.
    """
    if len(deltas) != len(weights):
        raise ValueError(f"{len(deltas)} deltas, {len(weights)} weights")
    if not deltas:
        return torch.zeros(())

    def add(where: slice, total: Tensor) -> None:
        torch.mul(deltas[0][where], weights[0], out=total)
        for delta, weight in zip(deltas[1:], weights[1:], strict=True):
            total.add_(delta[where], alpha=weight)
        if by != 1:
            total.div_(by)

    return Span(len(deltas[0]), deltas[0].device, WIDE, threaded=True).filled(add)
