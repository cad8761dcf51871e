"""What robust rules share: how many of the contributors may be hostile."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .method import MergeMethod, Site


@dataclass(frozen=True, slots=True)
class Robust(MergeMethod):
    """A rule for n contributors, oneself among them, of whom any `f` may send whatever they like.

    Without `f` a quarter of the others are taken to be hostile, (n - 1) / 4 rounded down, at least one of four.
    Relative to oneself own takes part as a row of zeros. A zero counts as "no change", also where it was not sent.
    """

    f: int | None = None

    own_votes: ClassVar[bool] = True
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a number of contributors below 0."""
        if self.f is not None and self.f < 0:
            raise ConfigError(f"f = {self.f}: give the number of hostile contributors to withstand, 0 or more")

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Check that there is something to merge, and withstand `f` of it."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        return self.withstand(self.tolerated(len(deltas)), deltas, site) if deltas else torch.zeros(())

    def tolerated(self, contributors: int) -> int:
        """Return how many of so many contributors may be hostile."""
        return self.f if self.f is not None else max((contributors - 1) // 4, int(contributors >= 4))

    @abstractmethod
    def withstand(self, f: int, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the merge of at least one delta, whatever `f` of them are."""
