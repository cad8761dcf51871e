"""Deltas read part by part, so that trimmed or dropped copies of whole tensors need not exist."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .blocks import Reader, Span

Value = TypeVar("Value")

SMALLEST = 1e-7
"""Sums of magnitudes below this are not divided by."""


def each(value: Value | tuple[Value, ...], count: int) -> tuple[Value, ...]:
    """Return a hyperparameter for every contributor: it is one for all, or already one for each.

    Raises ConfigError if it is one for each of another number of contributors.
    """
    values = value if isinstance(value, tuple) else (value,) * count
    if len(values) != count:
        raise ConfigError(f"{values} for {count} contributors: give one value for all or one for each")
    return values


def named(value: object) -> int:
    """Return for how many contributors a hyperparameter gives values: 1 if it is one for all."""
    return len(value) if isinstance(value, tuple) else 1


def matched(delta: Tensor, read: Reader, span: Span) -> Reader:
    """Return a reader of the same entries, scaled so that their magnitudes have the whole delta's sum.

    What is read is remembered as one byte an entry: drawing or ranking again would cost more.
    """
    kept = torch.empty(span.length, dtype=torch.bool, device=span.device)

    def sums(where: slice) -> Tensor:
        part = read(where)
        torch.ne(part, 0, out=kept[where])
        return torch.stack((delta[where].abs().sum(), part.abs().sum()))

    whole, left = span.total(sums).expand(2)
    ratio = torch.where((whole < SMALLEST) | (left < SMALLEST), 1.0, whole / left).float()
    return lambda where: (delta[where] * kept[where]).mul_(ratio)
