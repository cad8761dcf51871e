"""How far contributors' vectors lie from each other, and who lies nearest: what robust rules look at.

Products are summed in float64: squares of large finite entries overflow float32, and small distances between long
vectors drown in it. Everything stays on the deltas' device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .blocks import BLOCK, shared

WIDE = 1 << 22
"""Entries worked on at a time on devices that are not the CPU: bounds the float64 copies."""
TINY = 1e-300
"""Stands for a norm of 0 where a number is divided by it."""


def norms(rows: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of every row, in float64."""
    return _summed(lambda stacked: stacked.square_().sum(1), rows).sqrt_()


def gram(rows: Sequence[Tensor]) -> Tensor:
    """Return the inner products of all pairs of rows, in float64."""
    return _summed(lambda stacked: stacked @ stacked.T, rows)


def square_distances(rows: Sequence[Tensor]) -> Tensor:
    """Return the squared distances of all pairs of rows, in float64: symmetric, and 0 on the diagonal."""
    products = gram(rows)
    squares = products.diagonal()
    found = (squares[:, None] + squares[None, :] - products - products.T).clamp_(min=0)
    return found.fill_diagonal_(0)


def shares_of_smallest(values: Tensor, count: int) -> Tensor:
    """Return weights that average the `count` smallest values of the last dimension: 1 / count each.

    Values equal to the largest of them share the places that are left, so that no order of contributors counts.
    """
    cut = values.sort(dim=-1).values[..., count - 1 : count]
    below, tied = values < cut, values == cut
    places = count - below.sum(-1, keepdim=True)
    return (below + tied * (places / tied.sum(-1, keepdim=True, dtype=values.dtype))) / count


def _summed(function: Callable[[Tensor], Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Return the sum of function(rows as a float64 matrix) over blocks of entries, in their order."""
    block, threads = (BLOCK, torch.get_num_threads()) if rows[0].device.type == "cpu" else (WIDE, 1)

    def part(start: int) -> Tensor:
        return function(torch.stack([row[start : start + block] for row in rows]).double())

    total = part(0)
    for more in shared(part, range(block, len(rows[0]), block), threads):
        total += more
    return total
