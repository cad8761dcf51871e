"""Isotropic merging: the directions of the sum, all of one length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .linalg import complete_spectrum, isometry, spectrum
from .matrices import MatrixMethod, Variant
from .method import check_finite, check_share


@dataclass(frozen=True, slots=True)
class IsoC(MatrixMethod):
    """Iso-C (Marczak et al., arXiv 2502.04959), for matrices; others: weighted mean.

    With sum_i w_i d_i = U diag(S) V^T the result is scale * mean(S) * U V^T: every direction that anybody moved
    becomes as long as the others. Directions that nobody moved (S = 0) stay 0 but count in the mean; `fusion_bench`
    completes them by ones that LAPACK chooses at will, which moves weights that nobody moved. Rounding noise is a
    direction, too: deltas of low rank should be exactly so, not differences of rounded weights.
    """

    scale: float = 1.0
    variant: Variant = "paper"

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge_matrices(self, stack: Tensor) -> Tensor:
        """Return mean(S) U V^T of the sum."""
        u, s, vh = (spectrum if self.variant == "paper" else complete_spectrum)(stack.sum(0))
        return s.mean() * (u @ vh)


@dataclass(frozen=True, slots=True)
class IsoCts(MatrixMethod):
    """Iso-CTS (Marczak et al., arXiv 2502.04959), for matrices; others: weighted mean.

    Of r directions (r: the smaller side) about the share `common` are the sum's leading ones; the rest go equally to
    the contributors: the leading directions of w_i d_i outside of the common ones' column space. They are replaced by
    the nearest orthonormal ones, all with the mean of the singular values that were collected, times scale.

    Directions in which nobody moved stay 0. `fusion_bench` completes them by ones that LAPACK chooses at will, and
    takes memory for a square of the rows.
    """

    scale: float = 1.0
    common: float = 0.8
    variant: Variant = "paper"

    def __post_init__(self) -> None:
        """Refuse a scale that is no number and a share outside of 0 and 1."""
        check_finite("scale", self.scale)
        check_share("common", self.common, zero=True, one=True)

    def merge_matrices(self, stack: Tensor) -> Tensor:
        """Return the mean singular value times the collected directions made orthonormal."""
        paper = self.variant == "paper"
        factors, stack = (spectrum, stack.double()) if paper else (complete_spectrum, stack)
        rank = min(stack.shape[1:])
        each = specific(rank, len(stack), self.common)
        u, s, vh = factors(stack.sum(0))
        shared = rank - each * len(stack)
        basis = u[:, :shared]
        # The order of the products decides how rounding goes, and so which directions LAPACK makes of a zero.
        outside = (delta - (basis @ (basis.mT @ delta) if paper else basis @ basis.mT @ delta) for delta in stack)
        triples = [(u[:, :each], s[:each], vh[:each]) for u, s, vh in map(factors, outside)]
        left = torch.cat([*(own for own, _, _ in triples), basis], 1)
        lengths = torch.cat([*(own for _, own, _ in triples), s[:shared]])
        right = torch.cat([*(own for _, _, own in triples), vh[:shared]])
        return lengths.mean() * (isometry(left, factors) @ isometry(right, factors))


def specific(rank: int, contributors: int, common: float) -> int:
    """Return how many of `rank` directions each contributor has for itself: rounded, but no more than there are."""
    rest = rank - int(rank * common)
    return min(round(rest / contributors), rank // contributors)
