"""Task arithmetic: add what others learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .average import divisor, weighted_sum
from .method import MergeMethod, Site, check_finite


@dataclass(frozen=True, slots=True)
class TaskArithmetic(MergeMethod):
    """Task arithmetic (Ilharco et al., arXiv 2212.04089): scale * sum_i w_i d_i.

    The paper searches scale on a validation set (0.3 is usual for several tasks); 1 / n is the mean. A negative
    weight unlearns; `normalize` divides by the sum of weights. Relative to oneself: a weighted mean that steps less or
    further.
    """

    scale: float = 1.0
    normalize: bool = False

    sparse: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum."""
        by = divisor(site.weights) if self.normalize else 1.0
        return weighted_sum(deltas, site.weights, by).mul_(self.scale)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum by mixing weights; a scale above 1 steps beyond the mean."""
        return weighted_sum(deltas, [self.scale * weight for weight in site.weights[1:]])
