"""DARE: drop entries at random before merging."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .average import divisor
from .blocks import Reader, Span
from .method import MergeMethod, Site, check_finite, check_share
from .readers import each, matched, named
from .sums import sum_read
from .ties import TO_ONESELF, Aggregate, Election, elect_read

DRAWN = 1 << 16
"""Entries drawn at a time, by a generator of their own; parts that a tensor is merged in begin at multiples of it."""
Rescale: TypeAlias = Literal["paper", "l1", "none"]


class Drop(ABC):
    """Which entries of a delta are dropped at random."""

    __slots__ = ()

    sorts: ClassVar[bool] = False
    """Whether entries are sorted for it, which several threads do faster than one."""

    @abstractmethod
    def step(self, shape: Sequence[int]) -> int:
        """Return how many entries of a tensor of this shape are to be read at a time."""

    @abstractmethod
    def read(self, delta: Tensor, shape: Sequence[int], seed: int, start: int, *, rescale: bool) -> Reader:
        """Return a reader of what is kept of a flat delta, divided by the probability of keeping it if asked.

        start: where the delta begins in its tensor.
        """


@dataclass(frozen=True, slots=True)
class Dropping(MergeMethod):
    """What rules that drop entries at random have in common.

    density: the share that is kept, for all or one per contributor. rescale: "paper" divides what is kept by its
    probability, so that the expectation is the whole delta; "l1" (mergekit's) gives what is kept of a tensor the sum
    of magnitudes that all of it had; "none" leaves it as it is.

    Relative to oneself nothing is rescaled: no step exceeds its weight, or two nodes would part at low densities,
    not meet.
    """

    density: float | tuple[float, ...] = 0.5
    scale: float = 1.0
    rescale: Rescale = "paper"

    def __post_init__(self) -> None:
        """Refuse to drop everything."""
        check_finite("scale", self.scale)
        self.drops(named(self.density))

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """Say whether neither a tensor's sums nor its ranks are asked for."""
        return self.rescale != "l1" and not any(drop.sorts for drop in self.drops(named(self.density)))

    @abstractmethod
    def drops(self, count: int) -> Sequence[Drop]:
        """Return what is dropped of every contributor's delta."""

    def _survivors(self, deltas: Sequence[Tensor], site: Site, rescale: Rescale) -> tuple[Span, list[Reader]]:
        """Return what is kept of at least one delta, and how it is to be read."""
        shape, drops = site.pieces[0].shape, self.drops(len(deltas))
        span = Span(len(deltas[0]), deltas[0].device, drops[0].step(shape), drops[0].sorts)
        readers = [
            drop.read(delta, shape, seed, site.start, rescale=rescale == "paper")
            for drop, delta, seed in zip(drops, deltas, site.seeds, strict=True)
        ]
        if rescale == "l1":
            readers = [matched(delta, read, span) for delta, read in zip(deltas, readers, strict=True)]
        return span, readers


@dataclass(frozen=True, slots=True)
class DroppingLinear(Dropping):
    """What is kept is added up; aggregate "mean" (mergekit's normalize = true) divides by the sum of weights."""

    aggregate: Literal["sum", "mean"] = "sum"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum, or mean, of what was kept."""
        by = divisor(site.weights) if self.aggregate == "mean" else 1.0
        return self._sum(deltas, site, self.rescale, self.scale / by)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum of what was kept, as it is: both ends of an edge move by the same."""
        return self._sum(deltas, site.only(range(1, len(site.weights))), "none", self.scale)

    def _sum(self, deltas: Sequence[Tensor], site: Site, rescale: Rescale, scale: float) -> Tensor:
        if not deltas:
            return torch.zeros(())
        span, readers = self._survivors(deltas, site, rescale)
        return sum_read(readers, [weight * scale for weight in site.weights], span)


@dataclass(frozen=True, slots=True)
class DroppingElected(Dropping):
    """What is kept elects a sign for every entry, and what agrees is merged, as in TIES; see there for `aggregate`."""

    aggregate: Aggregate = "mean"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled elected merge of what was kept."""
        return self._elected(deltas, site, self.rescale, Election(aggregate=self.aggregate))

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the agreeing neighbours' scaled sum by mixing weights, of what was kept as it is."""
        return self._elected(deltas, site.only(range(1, len(site.weights))), "none", TO_ONESELF)

    def _elected(self, deltas: Sequence[Tensor], site: Site, rescale: Rescale, election: Election) -> Tensor:
        if not deltas:
            return torch.zeros(())
        span, readers = self._survivors(deltas, site, rescale)
        return elect_read(readers, site.weights, span, election).mul_(self.scale)


@dataclass(frozen=True, slots=True)
class DropEqually(Drop):
    """Every entry is kept with the same probability."""

    density: float

    def __post_init__(self) -> None:
        """Refuse to drop everything."""
        check_share("density", self.density, one=True)

    def step(self, shape: Sequence[int]) -> int:
        """Return the same for all: draws depend on it."""
        return DRAWN

    def read(self, delta: Tensor, shape: Sequence[int], seed: int, start: int, *, rescale: bool) -> Reader:
        """Return a reader that draws as it reads."""
        if self.density == 1:
            return delta.__getitem__
        limits = thresholds(torch.full((), self.density, device=delta.device))
        gain = 1 / self.density if rescale else 1.0

        def read(where: slice) -> Tensor:
            part = delta[where]
            kept = drawn(limits, part.shape, seed, start + where.start).mul_(part)
            return kept.mul_(gain) if rescale else kept

        return read


@dataclass(frozen=True, slots=True)
class DareLinear(DroppingLinear):
    """DARE (Yu et al., arXiv 2311.03099) before task arithmetic: entries are kept with probability `density`.

    scale * sum_i w_i m_i d_i / density: coefficients are those of `TaskArithmetic`. Where both ends of an edge use
    the same seed for it, the network's mean is kept as by the weighted mean.
    """

    def drops(self, count: int) -> Sequence[Drop]:
        """Drop all entries with the same probability."""
        return [DropEqually(density) for density in each(self.density, count)]


@dataclass(frozen=True, slots=True)
class DareTies(DroppingElected):
    """DARE (Yu et al., arXiv 2311.03099) before the sign election of TIES, in place of its trimming."""

    def drops(self, count: int) -> Sequence[Drop]:
        """Drop all entries with the same probability."""
        return [DropEqually(density) for density in each(self.density, count)]


def thresholds(probability: Tensor) -> Tensor:
    """Return what `drawn` compares random numbers with: of 32 bits on the CPU, floats elsewhere."""
    if probability.device.type != "cpu":
        return probability
    return (probability.double() * 2.0**32 - 2.0**31).clamp_(max=2.0**31 - 1).to(torch.int32)


def drawn(limits: Tensor, shape: Sequence[int], seed: int, start: int) -> Tensor:
    """Draw what is kept, 1, or not, 0, of the part of a vector that begins at `start`; limits are broadcast.

    The same seed draws the same on one kind of device, however many threads read the parts: on the CPU from the raw
    bits of a generator whose stream numpy does not change.
    """
    kept = torch.empty(tuple(shape), device=limits.device)
    if limits.device.type != "cpu":
        generator = torch.Generator(limits.device).manual_seed(seed)
        return torch.lt(torch.rand(kept.shape, generator=generator, device=limits.device), limits, out=kept)
    count = math.prod(shape)
    bits = np.random.SFC64([seed, start]).random_raw((count + 1) // 2).view(np.int32)[:count]
    return torch.lt(torch.from_numpy(bits).view(kept.shape), limits, out=kept)
