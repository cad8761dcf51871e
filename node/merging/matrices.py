"""Methods that look at a weight as a matrix."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import divisor, weighted_sum
from .method import MergeMethod, Piece, Site

Variant = Literal["paper", "fusion_bench"]

EMBEDDING = r"(?i)embed|\bwte\b|\bwpe\b|\bshared\b"
"""Finds the names of embedding tables: matrices that nothing multiplies, whose rows are looked up."""


class MatrixMethod(MergeMethod):
    """A rule for matrices. Tensors of other dimensions come to their weighted mean."""

    __slots__ = ()

    scale: float

    @abstractmethod
    def merge_matrices(self, stack: Tensor) -> Tensor:
        """Return the merged matrix of a stack of deltas (their number x rows x columns), times their weights."""

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled merge."""
        piece = site.pieces[0]
        if not deltas or not is_matrix(piece):
            return mean(deltas, site.weights).mul_(self.scale)
        rows = [delta.view(piece.shape) * weight for delta, weight in zip(deltas, site.weights, strict=True)]
        return self.merge_matrices(torch.stack(rows)).to(torch.float32).mul_(self.scale).reshape(-1)


def is_matrix(piece: Piece) -> bool:
    """Say whether a tensor has rows and columns, and entries."""
    return len(piece.shape) == 2 and piece.size > 0


def is_linear(piece: Piece, skip: str) -> bool:
    """Say whether a tensor is the weight of a linear layer: a matrix whose name the pattern does not find."""
    return is_matrix(piece) and not re.search(skip, piece.name)


def check_pattern(key: str, pattern: str) -> None:
    """Raise ConfigError unless the pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key} = {pattern!r} is no regular expression: {error}") from error


def mean(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean."""
    return weighted_sum(deltas, weights, divisor(weights))
