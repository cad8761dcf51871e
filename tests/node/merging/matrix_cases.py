"""Matrices on which every subspace method must behave."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 7), (7, 1), (1, 1), (3, 5)]


def awkward(shape: tuple[int, int]) -> dict[str, list[Tensor]]:
    """Return lists of flat deltas: distinct, equal, opposite, zero among others, all zero, of rank one."""
    random = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=random).reshape(-1) for _ in range(3))
    ranked = [torch.outer(x.view(shape)[:, 0], y.view(shape)[0]).reshape(-1) for x, y in ((a, b), (b, c), (c, a))]
    zero = torch.zeros_like(a)
    return {
        "distinct": [a, b, c],
        "equal": [a, a.clone(), b],
        "opposite": [a, -a, b],
        "cancelling": [a, -a],
        "one zero": [a, zero, b],
        "zeros": [zero, zero],
        "rank one": ranked,
        "single": [a],
        "many": [a, b, c, a + b, b + c, c - a, a - b],
    }
