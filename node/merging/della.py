"""DELLA: drop entries at random before merging, small ones more often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .blocks import Reader
from .dare import DRAWN, Drop, DroppingElected, DroppingLinear, drawn, thresholds
from .method import check_share
from .readers import each

PLACE = (1 << 32) - 1
"""The lower half of a sorting key: the place in the row."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows within which entries are ranked: along dimension 1; a tensor of fewer dimensions is one row."""

    width: int
    inner: int
    """Entries from one entry of a row to the next: 1 in matrices, the kernel's size in convolutions."""

    @classmethod
    def of(cls, shape: Sequence[int]) -> Rows:
        """Return the rows of a tensor of this shape."""
        return cls(shape[1], math.prod(shape[2:])) if len(shape) > 1 else cls(math.prod(shape), 1)

    @property
    def step(self) -> int:
        """Return how many entries to read at a time: whole rows, about DRAWN entries of them."""
        together = max(1, self.width * self.inner)
        return max(1, DRAWN // together) * together

    def cut(self, part: Tensor) -> Tensor:
        """Return part of a flat tensor, whole rows, with rows along dimension 1."""
        return part.view(-1, self.width, self.inner)

    def ladder(self, density: float, epsilon: float, device: torch.device) -> Tensor:
        """Return the probabilities from the smallest magnitude of a row to the largest; a single entry has density."""
        if self.width < 2:
            return torch.full((self.width, 1), density, device=device)
        ranks = torch.arange(self.width, dtype=torch.float64, device=device)
        return (density - epsilon + 2 * epsilon / (self.width - 1) * ranks).float().unsqueeze(1)


def arranged(ranked: Tensor, rows: Tensor) -> Tensor:
    """Return values that are given by rank along dimension 1 where the entries of these ranks are."""
    return torch.empty_like(rows).scatter_(1, order(rows), ranked.expand(rows.shape))


def order(rows: Tensor) -> Tensor:
    """Return the indexes along dimension 1 that sort by magnitude, the smallest first and equals by index.

    On the CPU magnitude and index are sorted as one integer, which is several times as fast as by reference.
    """
    if rows.device.type != "cpu":
        return rows.abs().sort(dim=1, stable=True).indices
    keys = rows.abs().numpy().view(np.int32).astype(np.int64)
    keys <<= 32
    keys |= np.arange(keys.shape[1])[:, None]
    keys.sort(axis=1)
    keys &= PLACE
    return torch.from_numpy(keys)


def keep_probabilities(delta: Tensor, shape: Sequence[int], density: float, epsilon: float) -> Tensor:
    """Return the probability with which every entry of a flat delta is kept: see `Della`."""
    if not len(delta):
        return torch.empty_like(delta)
    rows = Rows.of(shape)
    return arranged(rows.ladder(density, epsilon, delta.device), rows.cut(delta)).view(-1)


@dataclass(frozen=True, slots=True)
class DropByRank(Drop):
    """Entries are kept with a probability that grows with the rank of their magnitude in their row."""

    density: float
    epsilon: float

    sorts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse probabilities of 0 or less, or above 1."""
        check_share("density", self.density, one=True)
        if self.density < 1 and not (0 <= self.epsilon < self.density and self.density + self.epsilon <= 1):
            raise ConfigError(
                f"density = {self.density}, epsilon = {self.epsilon}: give an epsilon from 0 on, with density - epsilon"
                " above 0 and density + epsilon up to 1"
            )

    def step(self, shape: Sequence[int]) -> int:
        """Return a number of whole rows."""
        return Rows.of(shape).step

    def read(self, delta: Tensor, shape: Sequence[int], seed: int, start: int, *, rescale: bool) -> Reader:
        """Return a reader that ranks and draws as it reads."""
        if self.density == 1:
            return delta.__getitem__
        rows = Rows.of(shape)
        ladder = rows.ladder(self.density, self.epsilon, delta.device)
        limits, gains = thresholds(ladder), 1 / ladder if rescale else torch.ones_like(ladder)

        def read(where: slice) -> Tensor:
            part = rows.cut(delta[where])
            # Drawn rank by rank: so draws are put in place together with their gains.
            factors = drawn(limits, part.shape, seed, start + where.start).mul_(gains)
            return arranged(factors, part).mul_(part).view(-1)

        return read


@dataclass(frozen=True, slots=True)
class Della(DroppingElected):
    """DELLA (Deep et al., arXiv 2406.11617): drop by rank of magnitude, then elect signs and merge as TIES does.

    The entry of rank r among the n of its row, 1 for the smallest magnitude, is kept with probability density -
    epsilon + 2 epsilon (r - 1) / (n - 1), or density where n is 1; equal magnitudes rank by index. Rows run along
    dimension 1 (in convolutions: along the input channels); a tensor of fewer dimensions is one row. "paper" divides
    every entry by its own probability. With density 1 nothing is dropped.

    Of tensors with long rows more is in memory at a time: a row, or in tensors of three dimensions and more all
    entries of one index along dimension 0.
    """

    epsilon: float = 0.15

    def drops(self, count: int) -> Sequence[Drop]:
        """Drop small entries more often."""
        return [DropByRank(density, self.epsilon) for density in each(self.density, count)]


@dataclass(frozen=True, slots=True)
class DellaLinear(DroppingLinear):
    """DELLA's drops (Deep et al., arXiv 2406.11617; see `Della`) before task arithmetic."""

    epsilon: float = 0.15

    def drops(self, count: int) -> Sequence[Drop]:
        """Drop small entries more often."""
        return [DropByRank(density, self.epsilon) for density in each(self.density, count)]
