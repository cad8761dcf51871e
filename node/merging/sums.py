"""Sums over contributors, read part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import Reader, Span


def zeros(deltas: Sequence[Tensor]) -> Tensor:
    """Return zeros of the deltas' length; a 0-d zero if there are none."""
    return torch.zeros_like(deltas[0]) if deltas else torch.zeros(())


def relative(weights: Sequence[float]) -> list[float]:
    """Return the weights as parts of the largest: equal ones are 1, and what cancels out cancels out exactly."""
    largest = max(map(abs, weights), default=0.0)
    return [weight / largest for weight in weights] if largest else list(weights)


def sum_read(readers: Sequence[Reader], weights: Sequence[float], span: Span) -> Tensor:
    """Return sum_i w_i d_i of deltas that are read part by part. Raises ValueError unless each has its weight."""
    terms = list(zip(readers, weights, strict=True))

    def add(where: slice) -> Tensor:
        total = torch.zeros(1, device=span.device)
        for read, weight in terms:
            total = torch.add(total, read(where), alpha=weight)
        return total

    return span.assemble(add)


def mean_of_voters(votes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean over those whose vote is not 0; 0 where nobody votes."""
    total, shares = torch.zeros_like(votes[0]), torch.zeros_like(votes[0])
    for vote, weight in zip(votes, weights, strict=True):
        total.add_(vote, alpha=weight)
        shares.add_(vote.sign().abs_(), alpha=weight)
    return total.div_(filled(shares))


def filled(divisor: Tensor) -> Tensor:
    """Return the divisor with 1 for 0, in arithmetic of floats: masks take torch five times as long."""
    return torch.eq(divisor, 0, out=torch.empty_like(divisor)).add_(divisor)
