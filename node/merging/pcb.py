"""PCB: entries compete within a contributor, and between contributors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .average import weighted_sum
from .blocks import in_blocks
from .method import MergeMethod, Scope, Site, check_finite, check_share
from .ranks import at_rank
from .sums import relative, zeros

OUTLIERS = 1e-4
"""The share of smallest, and of largest, magnitudes that are drawn in to the next."""
FLOOR = 1e-12
"""Sums of scores are not divided by less."""


@dataclass(frozen=True, slots=True)
class Pcb(MergeMethod):
    """PCB-Merging (Du et al., arXiv 2410.02396), parameter competition balancing: a mean by scores, times scale.

    With A_i = |d_i|, outliers drawn in to the quantiles at 0.0001 and 0.9999, and norm(x) = (x - min) / (max - min)
    over all entries, score exp(n * norm(A_i)^2) * tanh(d_i * sum_j d_j); of it the largest `density` are kept as
    s_i = norm(max(score_i, its quantile)). Merged: sum_i s_i sgn(d_i) A_i / sum_i s_i, and 0 where nobody scores.

    Quantiles are of the whole model. Weights count in both sums, as parts of the largest: equal ones are the paper's
    rule. A vector of equal entries has no norm: as magnitudes it is 0, as positive scores 1.
    """

    density: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a density that keeps nothing or more than all."""
        check_share("density", self.density, one=True)
        check_finite("scale", self.scale)

    @property
    def scope(self) -> Scope:
        """Return "global": competition is for the whole model."""
        return "global"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Score, select, average."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        if not deltas or not len(deltas[0]):
            return zeros(deltas)
        weights = relative(site.weights)
        total = weighted_sum(deltas, weights)
        limits = [_limits(delta) for delta in deltas]
        scores = [
            in_blocks(partial(_score, len(deltas), *limit), delta, total)
            for delta, limit in zip(deltas, limits, strict=True)
        ]
        cuts = [self._cut(score) for score in scores]

        def merged(*rows: Tensor) -> Tensor:
            above, below = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
            halves = zip(rows[: len(deltas)], rows[len(deltas) :], weights, limits, cuts, strict=True)
            for delta, score, weight, limit, cut in halves:
                share = _selected(score, *cut)
                above.addcmul_(delta.sign() * delta.abs().clamp(*limit), share, value=weight)
                below.add_(share, alpha=weight)
            return above.div_(below.clamp(min=FLOOR)).mul_(self.scale)

        return in_blocks(merged, *deltas, *scores)

    def _cut(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest score that counts, and the largest."""
        place = min(len(score) - 1, int(len(score) * (1 - self.density)))
        return at_rank(score, place), score.max()


def _limits(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the quantiles of magnitudes between which they are drawn in."""
    magnitude, length = delta.abs(), len(delta)
    return at_rank(magnitude, int(length * OUTLIERS)), at_rank(magnitude, max(0, int(length * (1 - OUTLIERS) - 1)))


def _score(count: int, low: Tensor, high: Tensor, delta: Tensor, total: Tensor) -> Tensor:
    """Return how strong an entry is among the contributor's own, times how well it goes with the others'."""
    span = high - low
    norm = (delta.abs().clamp(low, high) - low) / span.where(span != 0, 1.0)
    return norm.square_().mul_(count).exp_() * (delta * total).tanh_()


def _selected(score: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Return scores between the lowest that counts, which becomes 0, and the highest, which becomes 1."""
    span = highest - lowest
    share = (score - lowest).clamp_(min=0) / span.where(span != 0, 1.0)
    return torch.where(span != 0, share, ((score >= lowest) & (score > 0)).to(score.dtype))
