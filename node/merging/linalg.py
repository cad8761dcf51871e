"""Singular directions of matrices, and a descent: what the subspace methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...protocol.errors import ConfigError

RESOLUTION = 1e-6
"""Singular values below this share of the largest are rounding noise of float32 inputs, and count as 0."""

Factors = tuple[Tensor, Tensor, Tensor]


def spectrum(matrix: Tensor) -> Factors:
    """Return U, S and V^T with S descending and as many directions as the smaller side; all 0 where S is 0.

    Taken from the eigenvectors of the smaller side's Gram matrix in float64: it resolves singular values as finely as
    an SVD in float32 does, in about as much time. What depends on the number of threads hardly survives the rounding
    to float32: at 512 x 512 less than 1 % of a merge's entries differ, in their last bits, where SVDs in float32 change
    99 %. Singular vectors are determined up to their sign, and to rotations among equal values.
    On CUDA the eigenvectors make the host wait.
    """
    if matrix.shape[0] > matrix.shape[1]:
        u, s, vh = spectrum(matrix.mT)
        return vh.mT, s, u.mT
    matrix = matrix.double()
    eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    s = eigenvalues.flip(0).clamp(min=0).sqrt()
    live = s > RESOLUTION * s[:1]
    u, s = vectors.flip(1) * live, s * live
    return u, s, (u.mT @ matrix) / s.where(live, 1.0)[:, None]


def complete_spectrum(matrix: Tensor) -> Factors:
    """Return U, S and V^T of an SVD in the matrix's precision.

    Where S is 0, LAPACK completes U and V^T by directions at its will, which depends on rounding.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


def isometry(matrix: Tensor, factors: Callable[[Tensor], Factors] = spectrum) -> Tensor:
    """Return U V^T: the matrix with all its singular values made 1; by `spectrum` those that are 0 stay."""
    u, _, vh = factors(matrix)
    return u @ vh


def adam(start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """Return where this many steps of Adam (arXiv 1412.6980, its usual constants) lead from `start`."""
    point, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point)
        mean.lerp_(slope, 0.1)
        square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        spread = square.sqrt().div_((1 - 0.999**step) ** 0.5).add_(1e-8)
        point.addcdiv_(mean, spread, value=-rate / (1 - 0.9**step))
    return point


def check_descent(steps: int, rate: float) -> None:
    """Raise ConfigError unless a descent can take these steps."""
    if steps < 0:
        raise ConfigError(f"steps = {steps}: give a number from 0")
    if not 0 < rate < float("inf"):
        raise ConfigError(f"rate = {rate}: give a learning rate above 0")
