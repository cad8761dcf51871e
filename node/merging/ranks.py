"""What stands where in ascending order, without leaving the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .blocks import Reader
from .trim import largest


def at_rank(values: Tensor, place: int) -> Tensor:
    """Return the value at a place, from 0, of ascending order, as a 0-d tensor; of an empty vector 0."""
    if not len(values):
        return values.sum()
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), place)[place : place + 1])[0]
    return values.kthvalue(place + 1).values


def mask_of_largest(values: Tensor, k: Tensor) -> Reader:
    """Return a reader of 1 for the k largest of values from 0 on, else 0, where only the device knows k.

    The smaller index wins ties and zeros are never kept. The CPU reads k and selects; other devices sort.
    """
    if values.device.type == "cpu":
        read = largest(values, int(k))
        return lambda where: read(where).sign()
    level = values.sort(descending=True).values.gather(0, (k - 1).clamp(min=0).view(1)) if len(values) else values
    above, equal = values > level, values == level
    first = equal & (equal.cumsum(0) <= k - above.sum())
    mask = ((above | first) & (values > 0)).float()
    return lambda where: mask[where]
