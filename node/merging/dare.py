"""DARE: drop entries at random before merging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arithmetic import coefficients
from .average import weighted_sum
from .method import MergeMethod, Reference, check_finite, check_share
from .ties import elect


@dataclass(frozen=True, slots=True)
class _Dare(MergeMethod):
    """Fields and dropping that both variants share.

    Survivors are divided by 1 - drop (`rescale`) only relative to the base, as in the paper. Relative to oneself
    they are not: the step would exceed a neighbour's weight, and with drop = 0.9 two nodes would part, not meet.
    """

    drop: float = 0.5
    scale: float = 1.0
    rescale: bool = True

    def __post_init__(self) -> None:
        """Refuse to drop everything."""
        check_share("drop", self.drop, zero=True)
        check_finite("scale", self.scale)

    def _kept(self, deltas: Sequence[Tensor], reference: Reference, seeds: Sequence[int]) -> Iterator[Tensor]:
        gain = 1 / (1 - self.drop) if self.rescale and reference == "base" else 1.0
        for delta, seed in zip(deltas, seeds, strict=True):
            yield drop_out(delta, self.drop, seed).mul_(gain)


@dataclass(frozen=True, slots=True)
class DareLinear(_Dare):
    """DARE (Yu et al., arXiv 2311.03099) before task arithmetic: every entry is dropped with probability `drop`.

    Coefficients are those of `TaskArithmetic`. Where both ends of an edge use the same seed for it, the
    network's mean is kept as by the weighted mean.
    """

    def merge(
        self, deltas: Sequence[Tensor], weights: Sequence[float], *, reference: Reference, seeds: Sequence[int]
    ) -> Tensor:
        """Return the scaled sum of what was kept."""
        kept = self._kept(deltas, reference, seeds)
        return weighted_sum(kept, coefficients(weights, self.scale, reference))


@dataclass(frozen=True, slots=True)
class DareTies(_Dare):
    """DARE (Yu et al., arXiv 2311.03099) before the sign election of TIES, in place of its trimming."""

    def merge(
        self, deltas: Sequence[Tensor], weights: Sequence[float], *, reference: Reference, seeds: Sequence[int]
    ) -> Tensor:
        """Return the elected merge of what was kept."""
        return elect(self._kept(deltas, reference, seeds), weights, reference).mul_(self.scale)


def drop_out(delta: Tensor, drop: float, seed: int) -> Tensor:
    """Return a copy whose entries are zero with probability `drop`; the same seed draws the same on one device kind."""
    draw = torch.Generator(delta.device).manual_seed(seed)
    return torch.empty_like(delta).bernoulli_(1 - drop, generator=draw).mul_(delta)
