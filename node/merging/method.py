"""What a merge method is: a frozen dataclass of hyperparameters with one pure function of tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ...protocol.errors import ConfigError

Scope = Literal["tensor", "global"]
Reference = Literal["own", "base"]


class MergeMethod(ABC):
    """A merge rule. Fields are hyperparameters; the class docstring names the paper."""

    __slots__ = ()

    @property
    def scope(self) -> Scope:
        """Say what one call sees: one tensor after the other, or all tensors as one flat vector without padding."""
        return "tensor"

    @abstractmethod
    def merge(
        self, deltas: Sequence[Tensor], weights: Sequence[float], *, reference: Reference, seeds: Sequence[int]
    ) -> Tensor:
        """Merge flat float32 tensors of one length and device, in canonical order; never modify them.

        reference "own": deltas are the neighbours' P_j - P_own and weights their mixing weights, whose sum is at
        most 1. Own is 0, keeps the rest of the weight and has no entry here. Returns the correction relative to
        oneself; an entry that one neighbour alone votes for moves by no more than this neighbour's weight, for no
        method divides by the weight of those who voted.
        reference "base": deltas are the task vectors of all contributors, own included, and weights sum to 1.
        Returns the merged task vector by the paper's rule.

        seeds: one per contributor and call, for methods that draw. Nobody contributes: a 0-d zero, which adds to
        tensors of any length. Raises ValueError if their numbers differ.
        """


def check_share(key: str, value: float, *, zero: bool = False, one: bool = False) -> None:
    """Raise ConfigError unless the value lies between 0 and 1; `zero` and `one` say which end is allowed."""
    if not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        ends = ("from 0" if zero else "above 0", "up to 1" if one else "below 1")
        raise ConfigError(f"{key} = {value}: give a share {ends[0]} and {ends[1]}")


def check_finite(key: str, value: float) -> None:
    """Raise ConfigError unless the value is a number."""
    if not math.isfinite(value):
        raise ConfigError(f"{key} = {value}: give a finite number")
