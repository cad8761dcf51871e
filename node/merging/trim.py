"""Keep the largest entries: exact, with a rule for equal magnitudes, and without leaving the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def keep_largest(x: Tensor, k: int) -> Tensor:
    """Return the mask of the k entries of largest magnitude of a flat tensor; the smaller index wins ties.

    Zeros are never kept, so there may be fewer than k. So chosen, top-k is nested: what a sender already cut to
    its s >= k largest entries gives the same mask.
    """
    magnitude = x.abs()
    if k >= x.numel():
        return magnitude > 0
    if k <= 0:
        return torch.zeros_like(x, dtype=torch.bool)
    cut = _kth_largest(magnitude, k)
    above, level = magnitude > cut, magnitude == cut
    room = k - above.sum()
    first = level & (level.cumsum(0) <= room)
    return (above | first) & (magnitude > 0)


def _kth_largest(magnitude: Tensor, k: int) -> Tensor:
    """Return the k-th largest value as a 0-d tensor; on the CPU by numpy's partition, about twice as fast."""
    place = magnitude.numel() - k
    if magnitude.device.type == "cpu":
        return torch.tensor(np.partition(magnitude.detach().numpy(), place)[place])
    return magnitude.kthvalue(place + 1).values
