"""The passes over a flat vector that choosing and rating need, as blocks: nothing of its size is ever copied.

Magnitudes are compared as *patterns*: a float32 without its sign bit, read as an integer, orders like the
magnitude it stands for. Zero is pattern 0. `vectors_torch.py` holds the same passes for a tensor on any device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Index: TypeAlias = npt.NDArray[np.int64]
Patterns: TypeAlias = npt.NDArray[np.uint32]
Runs: TypeAlias = Sequence[slice]
"""Parts of the flat vector, ascending and disjoint."""

MAGNITUDE: Final = 0x7FFFFFFF
"""All bits of a float32 but its sign."""
BEYOND: Final = 0x7F800000
"""Above every finite pattern: that of infinity."""
LOWER: Final = 16
"""Bits of a pattern below the upper half: exponent and 7 bits of mantissa."""
BINS: Final = 0x7F80
"""Upper halves of finite patterns: 128 bins an octave."""
BLOCK: Final = 1 << 17
"""Entries worked on at a time: what a pass holds of them fits a core's own cache."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which entries are kept: every pattern above `below`, and the first `ties` of those that equal it."""

    below: int
    ties: int = 0


class Vector(Protocol):
    """A flat float32 vector, wherever it lies; what is returned lies on the host."""

    def take(self, where: slice | Index) -> Floats:
        """Return these entries."""
        ...

    def squares(self, where: slice) -> float:
        """Return the sum of squares, not finite if an entry is not."""
        ...

    def between(self, runs: Runs, low: int, high: int, most: int) -> tuple[int, Patterns | None]:
        """Count patterns from `high` on, and return those in low <= p < high: None if more than `most`."""
        ...

    def histogram(self, runs: Runs) -> Index:
        """Count patterns by their upper 16 bits; every entry must be finite."""
        ...

    def digits(self, runs: Runs, upper: int) -> Index:
        """Count the lower 16 bits of the patterns whose upper 16 bits are `upper`."""
        ...

    def indexes(self, runs: Runs, cut: Cut) -> Index:
        """Return the flat indexes, ascending, of the entries that are kept."""
        ...


@dataclass(frozen=True, slots=True)
class HostVector:
    """A contiguous numpy array."""

    x: Floats

    def take(self, where: slice | Index) -> Floats:
        """Return these entries; a slice is a view."""
        return self.x[where]

    def squares(self, where: slice) -> float:
        """Return the sum of squares, in double precision."""
        wide = np.empty(min(BLOCK, where.stop - where.start))
        total = 0.0
        for block in blocks([where]):
            part = wide[: block.stop - block.start]
            np.copyto(part, self.x[block])
            total += float(part @ part)
        return total

    def between(self, runs: Runs, low: int, high: int, most: int) -> tuple[int, Patterns | None]:
        """Count above and collect between, in one pass."""
        above, inside = 0, 0
        found: list[Patterns] = [np.empty(0, np.uint32)]
        for _, p in self._patterns(runs):
            higher, within = p >= high, p >= low
            above += int(np.count_nonzero(higher))
            within ^= higher
            found.append(p[within])
            inside += len(found[-1])
            if inside > most:
                return above, None
        return above, np.concatenate(found)

    def histogram(self, runs: Runs) -> Index:
        """Count patterns by their upper 16 bits; every entry must be finite."""
        counts = np.zeros(BINS, np.int64)
        for _, p in self._patterns(runs):
            p >>= LOWER
            counts += np.bincount(p, minlength=BINS)
        return counts

    def digits(self, runs: Runs, upper: int) -> Index:
        """Count the lower 16 bits of the patterns whose upper 16 bits are `upper`."""
        counts = np.zeros(1 << LOWER, np.int64)
        for _, p in self._patterns(runs):
            inside = p[p >> LOWER == upper] & ((1 << LOWER) - 1)
            counts += np.bincount(inside, minlength=1 << LOWER)
        return counts

    def indexes(self, runs: Runs, cut: Cut) -> Index:
        """Compare block by block; ties are taken from the front."""
        found: list[Index] = [np.empty(0, np.int64)]
        ties = cut.ties
        for start, p in self._patterns(runs):
            kept = p > cut.below
            if ties:
                equal = np.flatnonzero(p == cut.below)[:ties]
                kept[equal] = True
                ties -= len(equal)
            found.append(np.flatnonzero(kept))
            found[-1] += start
        return np.concatenate(found)

    def _patterns(self, runs: Runs) -> Iterator[tuple[int, Patterns]]:
        """Yield start and patterns of block after block, in one buffer that the caller may overwrite."""
        buffer = np.empty(BLOCK, np.uint32)
        for block in blocks(runs):
            p = buffer[: block.stop - block.start]
            np.bitwise_and(self.x[block].view(np.uint32), np.uint32(MAGNITUDE), out=p)
            yield block.start, p


def blocks(runs: Iterable[slice], size: int = BLOCK) -> Iterator[slice]:
    """Cut runs into pieces of at most `size` entries."""
    for run in runs:
        for start in range(run.start, run.stop, size):
            yield slice(start, min(start + size, run.stop))
