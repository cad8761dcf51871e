"""Rate control: how many of the largest entries to send, and on which grid, for a budget in bits or in error.

Works on a histogram of magnitudes with 128 bins an octave. An entry of magnitude v on a grid of step s has the level
floor(v / s + 1/2) and can be sent if that is 1 or more; steps are 2^e and, half an octave between, 3 * 2^(e - 1),
whose levels are sent as multiples of 3 on the grid of step 2^(e - 1). Sending the k largest of n costs the entropy of
the mask, k signs, and the entropy of the levels (zeroth order, entries independent: what a frame's coder comes close
to), and leaves the squares of the rest and the rounding errors of the k. For one grid both figures follow for every k
from sums that run down the histogram. Bins begin where levels up to 128 (multiples of 3: up to 32) begin, so there the
bits are exact but for a place within one bin; finer levels are taken to share a bin evenly.

A finer grid with fewer entries can meet the same budget as a coarser one with more: the coarsest that can meet it and
the next finer ones are compared in the other figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from ..protocol.limits import MAX_EXPONENT
from .vectors import BINS, Index

Doubles = npt.NDArray[np.float64]
MANTISSA = 7
"""Bits of a bin's number below the exponent."""
BIAS = 127
LEVEL_BITS = 28
"""No grid is finer than this many bits below the largest entry: levels stay below 2^30."""
FINER = 4
"""Grids tried below the coarsest that meets the budget."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Levels are multiples of `multiple`, in units of 2^exponent."""

    exponent: int
    multiple: int = 1

    @property
    def step(self) -> float:
        """Distance between neighbouring levels."""
        return math.ldexp(self.multiple, self.exponent)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many of `size` entries have a magnitude in which bin: bins descending, those without entries left out."""

    bins: Index
    counts: Doubles
    size: int

    @classmethod
    def of(cls, counts: Index | Doubles, size: int) -> Histogram:
        """Take the counts, or their expectations, of all bins from zero up."""
        bins = np.flatnonzero(counts)[::-1]
        return cls(bins, counts[bins].astype(np.float64), size)


@dataclass(frozen=True, slots=True)
class Point:
    """Entries sent, their grid, bits per parameter, and the share of the squared norm left behind."""

    count: float
    grid: Grid
    bits: float
    error: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What one grid offers, from nothing sent to everything that has a level: three arrays, ascending in `counts`."""

    grid: Grid
    counts: Doubles
    bits: Doubles
    error: Doubles

    def at_count(self, count: float) -> Point:
        """Return the point of so many entries, or of all that have a level if they are fewer."""
        return self._at(self.counts, count)

    def at_bits(self, bits: float) -> Point:
        """Return the point that costs so much, or everything if that costs less."""
        return self._at(self.bits, bits)

    def at_error(self, error: float) -> Point:
        """Return the point that leaves so much behind, or everything if that leaves more."""
        return self._at(-self.error, -error)

    def _at(self, axis: Doubles, value: float) -> Point:
        ascending = np.maximum.accumulate(axis)
        count, bits, error = (float(np.interp(value, ascending, y)) for y in (self.counts, self.bits, self.error))
        return Point(count, self.grid, bits, error)


def curve(histogram: Histogram, grid: Grid) -> Curve:
    """Return what a grid offers."""
    edges, step = bin_edges(), grid.step
    lower, width = edges[histogram.bins], np.diff(edges)[histogram.bins]
    middle = lower + width / 2
    squares = histogram.counts * (middle**2 + width**2 / 12)
    # Descending: bins that have a level stand in front.
    sent = slice(0, int(np.count_nonzero(lower >= step / 2)))
    counts, level = histogram.counts[sent], np.floor(lower[sent] / step + 0.5)
    levels_in_bin = np.maximum(1, width[sent] / step)
    inside = (middle[sent] - level * step) ** 2 + width[sent] ** 2 / 12
    rounding = np.where(width[sent] < step, inside, step**2 / 12)
    total = np.cumsum(counts)
    bits = _mask(total, histogram.size) + total + _levels(counts, level) + np.cumsum(counts * np.log2(levels_in_bin))
    kept = np.cumsum(squares[sent] - counts * rounding)
    return Curve(
        grid,
        np.append(0, total),
        np.append(0, bits / histogram.size),
        1 - np.append(0, kept / squares.sum()),
    )


def grids(histogram: Histogram, finest: int) -> list[Grid]:
    """Return ever finer grids of exponents >= `finest`, but none on which no entry has a level or one overflows."""
    top = int(histogram.bins[0] >> MANTISSA) - BIAS
    first = min(max(top + 1, finest), MAX_EXPONENT)
    last = min(max(top - LEVEL_BITS, finest), MAX_EXPONENT)
    found: list[Grid] = []
    for exponent in range(first, last - 1, -1):
        found.append(Grid(exponent))
        if exponent - 2 >= last:
            found.append(Grid(exponent - 2, 3))
    return found


def for_bits(histogram: Histogram, bits: float, choices: Sequence[Grid]) -> Point:
    """Return the point that leaves the least behind for so many bits per parameter, on one of these ever finer grids.

    It costs less where even everything on the finest grid does.
    """
    found = _meeting(histogram, choices, lambda one: one.bits[-1] >= bits)
    return min((one.at_bits(bits) for one in found), key=lambda point: point.error)


def for_error(histogram: Histogram, error: float, choices: Sequence[Grid]) -> Point:
    """Return the cheapest point that leaves this share of the squared norm, on one of these ever finer grids.

    It leaves more where even everything on the finest grid does.
    """
    found = _meeting(histogram, choices, lambda one: one.error[-1] <= error)
    return min((one.at_error(error) for one in found), key=lambda point: point.bits)


def _meeting(histogram: Histogram, choices: Sequence[Grid], meets: Callable[[Curve], bool]) -> list[Curve]:
    """Return the first grid's curve that meets the budget and the FINER next ones; the last of all if none does."""
    curves = (curve(histogram, grid) for grid in choices)
    one = next(curves)
    while not meets(one):
        finer = next(curves, None)
        if finer is None:
            return [one]
        one = finer
    return [one, *islice(curves, FINER)]


@cache
def bin_edges() -> Doubles:
    """Return where each bin begins, and where the last ends: the values of patterns whose lower half is zero."""
    exponent, mantissa = np.divmod(np.arange(BINS + 1), 1 << MANTISSA)
    normal = exponent > 0
    edges: Doubles = np.ldexp(normal + mantissa / (1 << MANTISSA), np.where(normal, exponent, 1) - BIAS)
    return edges


def _mask(sent: Doubles, size: int) -> Doubles:
    """Return the entropy of which `sent` of `size` entries are sent, in bits."""
    return _xlogx(np.float64(size)) - _xlogx(sent) - _xlogx(size - sent)


def _levels(counts: Doubles, level: Doubles) -> Doubles:
    """Return the entropy of the levels of the entries of the first bin, of the first two, and so on, in bits.

    With N_L entries of level L among N: N log N minus the sum of N_L log N_L. Bins of one level stand together.
    """
    sent = np.append(0, np.cumsum(counts))
    begins = np.flatnonzero(np.diff(level, prepend=np.inf))
    group = np.searchsorted(begins, np.arange(len(level)), side="right") - 1
    complete = np.append(0, np.cumsum(_xlogx(np.diff(sent[begins]))))
    entropy: Doubles = _xlogx(sent[1:]) - complete[group] - _xlogx(sent[1:] - sent[begins][group])
    return entropy


def _xlogx(x: Doubles | np.float64) -> Doubles:
    return np.asarray(x * np.log2(np.maximum(x, 1)))
