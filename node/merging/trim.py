"""Keep the largest entries: exact, with a rule for equal magnitudes, and without leaving the device."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..selection import cut
from ..vectors import MAGNITUDE, Floats, HostVector, blocks
from .blocks import Reader

NOTHING: Final = math.inf
"""No finite magnitude is above it."""


def keep_largest(x: Tensor, k: int) -> Tensor:
    """Return the mask of the k entries of largest magnitude of a flat tensor; the smaller index wins ties.

    Zeros are never kept, so there may be fewer than k. So chosen, top-k is nested: what a sender already cut to
    its s >= k largest entries gives the same mask.
    """
    if x.device.type == "cpu":
        return largest(x, k)(slice(0, len(x))) != 0
    magnitude = x.abs()
    if k >= x.numel():
        return magnitude > 0
    if k <= 0:
        return torch.zeros_like(x, dtype=torch.bool)
    level = _kth_largest(magnitude, k)
    above, equal = magnitude > level, magnitude == level
    first = equal & (equal.cumsum(0) <= k - above.sum())
    return (above | first) & (magnitude > 0)


def largest(x: Tensor, k: int, *, equals: bool = False) -> Reader:
    """Return a reader of a flat tensor with all but its k largest entries zero; `equals`: and all that tie with them.

    Without `equals` the smaller index wins ties. Nothing of the tensor's size is made of it on the CPU.
    """
    if x.device.type != "cpu":
        kept = x.abs() >= _kth_largest(x.abs(), k) if equals and 0 < k < len(x) else keep_largest(x, k)
        return lambda where: x[where] * kept[where]
    level, end = _threshold(x.detach().numpy(), k, equals=equals)
    lower = float(np.nextafter(np.float32(level), np.float32(0)))

    def read(where: slice) -> Tensor:
        part = x[where]
        inside = min(max(end - where.start, 0), len(part))
        if not inside:
            return torch.hardshrink(part, level)
        if inside == len(part):
            return torch.hardshrink(part, lower)
        return torch.cat((torch.hardshrink(part[:inside], lower), torch.hardshrink(part[inside:], level)))

    return read


def _threshold(x: Floats, k: int, *, equals: bool) -> tuple[float, int]:
    """Return the magnitude above which entries are kept, and the index before which those equal to it are as well."""
    if k <= 0:
        return NOTHING, 0
    if k >= len(x):
        return 0.0, 0
    found = cut(HostVector(x), [slice(0, len(x))], k)
    level = float(np.uint32(found.below).view(np.float32))
    if not found.ties or not found.below:
        return level, 0
    return level, len(x) if equals else _after(x, found.below, found.ties)


def _after(x: Floats, pattern: int, count: int) -> int:
    """Return the index after the count-th entry whose magnitude has this pattern."""
    for block in blocks([slice(0, len(x))]):
        equal = np.flatnonzero((x[block].view(np.uint32) & np.uint32(MAGNITUDE)) == pattern)
        if len(equal) >= count:
            return int(block.start + equal[count - 1] + 1)
        count -= len(equal)
    return len(x)


def _kth_largest(magnitude: Tensor, k: int) -> Tensor:
    """Return the k-th largest value as a 0-d tensor."""
    return magnitude.kthvalue(magnitude.numel() - k + 1).values
