"""Long deltas are shortened, then averaged: what a single contributor moves is bounded, and nobody is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import SMALLEST
from .blocks import in_blocks
from .distances import TINY, norms
from .method import MergeMethod, Scope, Site
from .robust import Robust


@dataclass(frozen=True, slots=True)
class Clip(MergeMethod):
    """Norm clipping: the weighted mean of d_j min(1, factor m / |d_j|), m the median of all norms |d_j|.

    Of an even number of norms the lower median, which half of the contributors cannot raise. While fewer than half
    are hostile the result is no longer than `factor` times the longest honest delta; its direction is not protected.
    Where half of the deltas are zero, m is 0 and nothing moves. Relative to oneself the norms are the neighbours'
    distances. The scope "global" measures whole models, "tensor" every tensor by itself.
    """

    factor: float = 2.0
    scope: Scope = "global"

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a factor that leaves nothing, or everything."""
        check_factor(self.factor)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean of the clipped deltas."""
        shares = mixing(deltas, site.weights)
        if not deltas:
            return torch.zeros(())
        lengths = norms(deltas)
        return scaled_sum(deltas, clips(lengths, self.factor * median_of(lengths)), shares)


@dataclass(frozen=True, slots=True)
class ClippedGossip(Robust):
    """ClippedGossip (He, Karimireddy, Jaggi, arXiv 2202.01545): x_i + sum_j w_ij clip(x_j - x_i, tau).

    clip(d, tau) = d min(1, tau / |d|). The paper's tau needs to know who is honest; here it is the distance of the
    (n - 1 - f)-th nearest of the n - 1 neighbours, so no more than the furthest honest one's, and so is the step.
    With f = 0 nothing is clipped: gossip averaging. With f >= n - 1 all neighbours may be hostile: own stays.
    Relative to oneself this is the paper's rule. Relative to the base, the base takes the place of x_i: the weighted
    mean of clip(d_j, tau), tau the (n - f)-th smallest norm of n; the paper does not speak of it.
    """

    scope: Scope = "global"

    def withstand(self, f: int, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean of the clipped deltas."""
        lengths = norms(deltas)
        return scaled_sum(deltas, clips(lengths, largest_but(f, lengths)), mixing(deltas, site.weights))

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum of clipped differences by mixing weights."""
        if not deltas:
            return torch.zeros(())
        lengths = norms(deltas)
        with_own = torch.cat((lengths.new_zeros(1), lengths))
        radius = largest_but(self.tolerated(len(with_own)), with_own)
        return scaled_sum(deltas, clips(lengths, radius), site.weights[1:])


def clips(lengths: Tensor, radius: Tensor) -> Tensor:
    """Return the factors min(1, radius / length)."""
    return (radius / lengths.clamp(min=TINY)).clamp_(max=1)


def scaled_sum(deltas: Sequence[Tensor], scales: Tensor, weights: Sequence[float]) -> Tensor:
    """Return sum_j scale_j w_j d_j of at least one delta; scales are a tensor, which the host need not see."""
    factors = [(scale * weight).float() for scale, weight in zip(scales.unbind(), weights, strict=True)]

    return in_blocks(lambda *rows: scaled(rows, factors), *deltas)


def scaled(rows: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """Return sum_j factor_j row_j, element by element: blocks of any size give the same bits, unlike a product."""
    total = rows[0] * factors[0]
    for row, factor in zip(rows[1:], factors[1:], strict=True):
        total.addcmul_(row, factor)
    return total


def largest_but(f: int, lengths: Tensor) -> Tensor:
    """Return the largest of these norms but for `f` larger ones; the smallest where there are no more than f."""
    return lengths.sort().values[max(0, len(lengths) - 1 - f)]


def median_of(lengths: Tensor) -> Tensor:
    """Return the median of these norms, of an even number the lower one."""
    return largest_but(len(lengths) // 2, lengths)


def mixing(deltas: Sequence[Tensor], weights: Sequence[float]) -> list[float]:
    """Return weights that sum to 1, one for each delta; weights that cancel out are left as they are."""
    if len(deltas) != len(weights):
        raise ValueError(f"{len(deltas)} deltas, {len(weights)} weights")
    total = sum(weights)
    return [weight / total for weight in weights] if abs(total) > SMALLEST else list(weights)


def check_factor(factor: float) -> None:
    """Raise ConfigError unless clipping to this many median norms leaves something."""
    if not 0 < factor < math.inf:
        raise ConfigError(f"factor = {factor}: give a number above 0, in median norms")
