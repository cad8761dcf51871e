"""NearSwap: take over what is near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...protocol.errors import ConfigError
from .alone import OneModelMethod
from .blocks import in_blocks
from .method import Site, check_finite

NEAREST = 1e-6
"""Differences are not taken to be smaller."""


@dataclass(frozen=True, slots=True)
class NearSwap(OneModelMethod):
    """NearSwap (alchemonaut, QuartetAnemoi-70B): the model's share of an entry is t / |d|, between 0 and 1.

    So entries closer to the base than t become the model's, and no entry moves by more than t. Of t below 1e-6 even
    equal entries take a part only. The author's t is 1e-4.
    """

    t: float = 1e-4

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse to move away from the model."""
        check_finite("t", self.t)
        if self.t < 0:
            raise ConfigError(f"t = {self.t}: give a distance, 0 or more")

    def merge_one(self, delta: Tensor, site: Site) -> Tensor:
        """Return the delta cut to t."""
        return in_blocks(lambda d: d.abs().clamp_(min=NEAREST).reciprocal_().mul_(self.t).clamp_(max=1).mul_(d), delta)
