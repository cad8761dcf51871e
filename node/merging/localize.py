"""Localize-and-Stitch without data: everyone's largest changes, averaged where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .blocks import Reader, Span
from .method import MergeMethod, Scope, Site, check_share
from .ranks import at_rank
from .sums import mean_of_voters
from .trim import largest


@dataclass(frozen=True, slots=True)
class LocalizeAndStitch(MergeMethod):
    """Localize-and-Stitch (He et al., arXiv 2408.13656), dataless: the mean over those who kept an entry.

    Each keeps the `density` largest entries of its delta, 5 % for language models and 10 % for vision in the paper,
    at least one; the smaller index wins ties. `strict` keeps, as the paper's code, what exceeds the last of them,
    which itself and all that tie with it go. The paper ranks the whole model: scope "global". A mean over voters:
    no scale is needed, and base entries that nobody kept stay.
    """

    density: float = 0.05
    scope: Scope = "tensor"
    strict: bool = False

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a density that keeps nothing or more than all."""
        check_share("density", self.density, one=True)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Localize, then stitch."""
        if not deltas:
            return torch.zeros(())
        readers = [self._localized(delta, site.size) for delta in deltas]

        def stitched(where: slice) -> Tensor:
            return mean_of_voters([read(where) for read in readers], site.weights)

        return Span(len(deltas[0]), deltas[0].device).assemble(stitched)

    def _localized(self, delta: Tensor, size: int) -> Reader:
        """Return a reader of the largest entries."""
        k = max(1, int(self.density * size))
        if not self.strict or k > len(delta):
            return largest(delta, k)
        level = at_rank(delta.abs(), len(delta) - k)
        return lambda where: delta[where] * (delta[where].abs() > level)
