"""Layers of one's own: how much of a merge each tensor takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from .method import Site, check_finite
from .steps import Step, scale_pieces


@dataclass(frozen=True, slots=True)
class Layers(Step):
    """Layer swapping (Bandarkar et al., arXiv 2410.01335) and weights by layer: scale tensors by their names.

    factors: pairs of a pattern with * and ?, and a factor; the first pattern that matches a tensor's name counts, and
    1 where none does. 0 keeps one's own layer (against the base: the base's), 1 takes the merge.
    """

    factors: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        """Refuse factors that are no numbers."""
        for pattern, factor in self.factors:
            check_finite(pattern, factor)

    def apply(self, merged: Tensor, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Scale every tensor by its factor."""
        return scale_pieces(merged, site, [self.factor(piece.name) for piece in site.pieces])

    def factor(self, name: str) -> float:
        """Return the factor of the tensor of this name."""
        return next((factor for pattern, factor in self.factors if fnmatchcase(name, pattern)), 1.0)
