"""Passthrough: one model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .alone import OneModelMethod
from .method import Site, check_finite


@dataclass(frozen=True, slots=True)
class Passthrough(OneModelMethod):
    """The model as it is, times `scale` (mergekit): its task vector, or its weights if there is no base."""

    scale: float = 1.0

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    def merge_one(self, delta: Tensor, site: Site) -> Tensor:
        """Return the scaled delta."""
        return delta * self.scale
