"""TSV-Merge: every contributor's leading singular directions, made orthogonal to the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from .linalg import Factors, complete_spectrum, isometry, spectrum
from .matrices import MatrixMethod
from .method import check_finite


@dataclass(frozen=True, slots=True)
class Tsvm(MatrixMethod):
    """Task Singular Vectors, TSV-Merge (Gargiulo et al., arXiv 2412.00081), for matrices; others: weighted mean.

    Each of k contributors keeps r // k singular triples of its delta (r: the smaller side, deltas times their
    weights); with [U_1 .. U_k] and [V_1 .. V_k] replaced by the nearest orthonormal directions the result is
    scale * U diag(S) V^T.

    The paper's r // k is 0 for matrices smaller than k, which would lose their update: one triple is kept at least.
    Directions in which a delta is 0, or that contributors share exactly, count once and add nothing of their own.
    `lossless` keeps all r triples of each. `fusion_bench` does as that library: updates of small matrices are lost,
    and zero and shared directions are completed by ones that LAPACK chooses at will.
    """

    scale: float = 1.0
    variant: Literal["paper", "lossless", "fusion_bench"] = "paper"

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge_matrices(self, stack: Tensor) -> Tensor:
        """Return U diag(S) V^T."""
        rank = min(stack.shape[1:])
        if self.variant == "lossless":
            return orthogonal_sum(stack, rank)
        if self.variant == "paper":
            return orthogonal_sum(stack, max(1, rank // len(stack)))
        return orthogonal_sum(stack, rank // len(stack), complete_spectrum, rank)


def orthogonal_sum(stack: Tensor, kept: int, factors: Callable[[Tensor], Factors] = spectrum, width: int = 0) -> Tensor:
    """Return U diag(S) V^T of the leading `kept` triples of each matrix, made orthogonal.

    Fewer triples than `width` are filled up with zeros, which count where `factors` completes directions.
    """
    triples = [(u[:, :kept], s[:kept], vh[:kept]) for u, s, vh in map(factors, stack)]
    missing = max(0, width - kept * len(stack))
    u = pad(torch.cat([left for left, _, _ in triples], 1), (0, missing))
    s = pad(torch.cat([lengths for _, lengths, _ in triples]), (0, missing))
    vh = pad(torch.cat([right for _, _, right in triples]), (0, 0, 0, missing))
    return (isometry(u, factors) * s) @ isometry(vh, factors)
