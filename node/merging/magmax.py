"""MagMax: of every entry, the largest change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .blocks import Span
from .method import MergeMethod, Site, check_finite
from .sums import zeros


@dataclass(frozen=True, slots=True)
class MagMax(MergeMethod):
    """MagMax (Marczak et al., arXiv 2407.06322): scale * d_t, where t = argmax_i |d_i|, entry by entry.

    The later contributor wins ties, as in the paper's code, so that the order matters where magnitudes are equal and
    signs are not: a merge sees contributors in their canonical order. A maximum has no weights: they say who takes
    part, which is everyone whose weight is not 0. One half is the paper's scale for independent fine-tunes.
    """

    scale: float = 0.5

    sparse: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled largest change of every entry."""
        rows = [delta for delta, weight in zip(deltas, site.weights, strict=True) if weight]
        if not rows:
            return zeros(deltas)

        def fill(where: slice, result: Tensor) -> None:
            largest = rows[0][where]
            for row in (other[where] for other in rows[1:]):
                # In arithmetic of floats, exact for shares of 0 and 1: masks take torch five times as long.
                largest = largest.lerp(row, row.abs().ge_(largest.abs()))
            torch.mul(largest, self.scale, out=result)

        return Span(len(rows[0]), rows[0].device).filled(fill)
