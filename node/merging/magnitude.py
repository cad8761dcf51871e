"""Magnitude pruning before task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .blocks import Reader, Span
from .method import MergeMethod, Site, check_finite, check_share
from .ranks import at_rank
from .sums import sum_read
from .trim import largest


@dataclass(frozen=True, slots=True)
class Magnitude(MergeMethod):
    """Magnitude pruning, the baseline of DARE (Yu et al., arXiv 2311.03099): scale * sum_i w_i prune(d_i).

    Of each tensor the `density` largest entries are kept, at least one; the smaller index wins ties. `rescale`
    divides them by density, as DARE does, although what is dropped is not random. Relative to oneself nothing is
    rescaled: no step exceeds its weight. Variants of libraries:

    - "peft" (magnitude_prune): int(density * n) entries, which may be none.
    - "merge_lm" (MergeLM): the int((1 - density) * n) smallest go, and all that tie with the last of them; tensors of
      two entries or fewer stay as they are.
    """

    density: float = 0.5
    scale: float = 1.0
    rescale: bool = False
    variant: Literal["exact", "peft", "merge_lm"] = "exact"

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a density that keeps nothing or more than all."""
        check_share("density", self.density, one=True)
        check_finite("scale", self.scale)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum of what is kept."""
        whole = self.variant == "merge_lm" and site.size <= 2
        gain = self.scale / self.density if self.rescale and not whole else self.scale
        return self._sum(deltas, site, [gain * weight for weight in site.weights])

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum of what is kept, by mixing weights."""
        others = site.only(range(1, len(site.weights)))
        return self._sum(deltas, others, [self.scale * weight for weight in others.weights])

    def _sum(self, deltas: Sequence[Tensor], site: Site, weights: Sequence[float]) -> Tensor:
        if not deltas:
            return torch.zeros(())
        readers = [self._kept(delta, site.size) for delta in deltas]
        return sum_read(readers, weights, Span(len(deltas[0]), deltas[0].device))

    def _kept(self, delta: Tensor, size: int) -> Reader:
        """Return a reader of what is kept of a delta."""
        if self.variant != "merge_lm":
            k = int(self.density * size)
            return largest(delta, k if self.variant == "peft" else max(1, k))
        # Rounded, so that a density of 0.9 leaves 0.1 to drop and not 0.09999999999999998.
        dropped = int(size * round(1 - self.density, 12)) - (size - len(delta))
        if size <= 2 or dropped <= 0:
            return delta.__getitem__
        level = at_rank(delta.abs(), dropped - 1)
        return lambda where: delta[where] * (delta[where].abs() > level)
