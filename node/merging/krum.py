"""Rules on whole vectors: who lies near many others is believed, entry by entry nobody has to agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .blocks import in_blocks
from .clipping import ClippedGossip, scaled, scaled_sum
from .distances import shares_of_smallest, square_distances
from .median import middle_of_block
from .method import Scope, Site
from .robust import Robust


@dataclass(frozen=True, slots=True)
class MultiKrum(Robust):
    """Multi-Krum (Blanchard et al., NeurIPS 2017): the mean of the n - f deltas with the smallest score.

    A delta's score is the sum of its squared distances to the n - f - 1 nearest others; equal scores share the last
    places. Everybody counts alike, whatever the weights. With honest deltas no further apart than D, the result lies
    within D (1 + sqrt((n - f - 1) / (n - 2 f))) of each. Fewer than 2 f + 3 contributors: clipped gossip.
    """

    scope: Scope = "global"

    def withstand(self, f: int, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean of those whom most stand near to."""
        n = len(deltas)
        if n < 2 * f + 3:
            return ClippedGossip(f, self.scope).merge(deltas, site)
        scores = square_distances(deltas).sort(dim=1).values[:, 1 : n - f].sum(1)
        return scaled_sum(deltas, shares_of_smallest(scores, n - f), [1.0] * n)


@dataclass(frozen=True, slots=True)
class NnmTrimmedMean(Robust):
    """Nearest neighbour mixing (Allouah et al., arXiv 2302.01772), then the coordinate-wise trimmed mean.

    Every delta becomes the mean of the n - f deltas nearest to it, itself among them (equally near ones share the
    last places); of these means the f lowest and f highest values of every entry are left out. Everybody counts alike,
    whatever the weights. With honest deltas no further apart than D, every entry lies within D of the range of the
    honest ones. Fewer than 2 f + 1 contributors: clipped gossip.
    """

    scope: Scope = "global"

    def withstand(self, f: int, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the trimmed mean of the mixed deltas."""
        n = len(deltas)
        if n < 2 * f + 1:
            return ClippedGossip(f, self.scope).merge(deltas, site)
        shares = shares_of_smallest(square_distances(deltas), n - f).float()
        mixing = [row.unbind() for row in shares]

        def mixed(*rows: Tensor) -> Tensor:
            return middle_of_block([scaled(rows, factors) for factors in mixing], f)

        return in_blocks(mixed, *deltas)
