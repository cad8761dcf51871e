"""RAM: what one contributor alone changed stays whole, what several changed is averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .blocks import Span, in_blocks
from .method import MergeMethod, Scope, Site, check_finite
from .sums import mean_of_voters, zeros


@dataclass(frozen=True, slots=True)
class Ram(MergeMethod):
    """RAM, Reinforced Agent Merging (arXiv 2601.13572): the weighted mean over those who changed an entry.

    Changed means |d| > epsilon. What a single contributor changed so comes out whole.
    """

    epsilon: float = 1e-5

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a negative threshold."""
        check_threshold(self.epsilon)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean of those who changed an entry."""
        if not deltas:
            return torch.zeros(())

        def merged(*rows: Tensor) -> Tensor:
            return mean_of_voters([cut(row, self.epsilon) for row in rows], site.weights)

        return in_blocks(merged, *deltas)


@dataclass(frozen=True, slots=True)
class RamPlus(MergeMethod):
    """RAM+ (arXiv 2601.13572): RAM, where entries that contributor i alone changed grow by what the rest of it lost.

    They are multiplied by 1 + r * min(shared_i / unique_i, alpha), with the numbers of entries that i changed
    together with others, and alone. They are counted tensor by tensor, or in the whole model: scope "global".
    Nothing changed alone: there is nothing to multiply.
    """

    r: float = 0.1
    alpha: float = 0.2
    epsilon: float = 1e-5
    scope: Scope = "tensor"

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no number, and negative limits."""
        check_threshold(self.epsilon)
        check_finite("r", self.r)
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ConfigError(f"alpha = {self.alpha}: give a limit from 0 on")

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Count who changed what, then average and amplify."""
        if not deltas or not len(deltas[0]):
            return zeros(deltas)
        span = Span(len(deltas[0]), deltas[0].device)

        def votes(where: slice) -> list[Tensor]:
            return [cut(delta[where], self.epsilon) for delta in deltas]

        shared, unique = span.total(lambda where: _counts(votes(where)))
        gains = self.r * (shared / unique.clamp(min=1)).clamp(max=self.alpha).float()

        def merged(where: slice) -> Tensor:
            here = votes(where)
            alone = _alone(here)
            grown = [vote.addcmul(vote * alone, gain) for vote, gain in zip(here, gains, strict=True)]
            return mean_of_voters(grown, site.weights)

        return span.assemble(merged)


def cut(delta: Tensor, epsilon: float) -> Tensor:
    """Return the entries whose magnitude exceeds epsilon, and zeros."""
    return torch.nn.functional.hardshrink(delta, epsilon)


def check_threshold(epsilon: float) -> None:
    """Raise ConfigError unless the threshold is a number from 0 on."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(f"epsilon = {epsilon}: give a threshold from 0 on")


def _alone(votes: Sequence[Tensor]) -> Tensor:
    """Return 1 where a single vote is not 0, else 0."""
    voters = torch.stack([vote.sign().abs_() for vote in votes]).sum(0)
    return torch.eq(voters, 1, out=voters)


def _counts(votes: Sequence[Tensor]) -> Tensor:
    """Return how many entries each contributor changed with others, and alone."""
    alone = _alone(votes)
    changed = [vote.sign().abs_() for vote in votes]
    unique = torch.stack([change.dot(alone) for change in changed])
    return torch.stack((torch.stack([change.sum() for change in changed]) - unique, unique))
