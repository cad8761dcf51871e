"""Task arithmetic: add what others learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .average import weighted_sum
from .method import MergeMethod, Reference, check_finite


@dataclass(frozen=True, slots=True)
class TaskArithmetic(MergeMethod):
    """Task arithmetic (Ilharco et al., arXiv 2212.04089): scale * sum_i d_i.

    To the base, equal weights count 1 each: contributor i of n has the coefficient scale * n * w_i. The paper
    searches scale on a validation set (0.3 is usual for several tasks); 1 / n is the weighted mean.
    Relative to oneself the coefficients are scale * w_j: a weighted mean that steps less or further.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge(
        self, deltas: Sequence[Tensor], weights: Sequence[float], *, reference: Reference, seeds: Sequence[int]
    ) -> Tensor:
        """Return the scaled sum."""
        return weighted_sum(deltas, coefficients(weights, self.scale, reference))


def coefficients(weights: Sequence[float], scale: float, reference: Reference) -> list[float]:
    """Return what every delta of a scaled sum is multiplied by."""
    factor = scale * len(weights) if reference == "base" else scale
    return [factor * weight for weight in weights]
