"""Delta: one sparse increment of a published state, in integers. The word shared by mathematics and wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .bits import Integers, Places
from .errors import FrameError, Refusal
from .limits import MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from .manifest import Manifest


@dataclass(frozen=True, slots=True)
class Delta:
    """Entries of value `level[i] * 2 ** exponent[tensor of index[i]]` at `index[i]` of the flat index space.

    exponents: int8, one per tensor. index: int64, strictly ascending. levels: int32, never zero.
    """

    exponents: npt.NDArray[np.int8]
    index: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.index)

    def bounds(self, manifest: Manifest) -> npt.NDArray[np.int64]:
        """Return where each tensor's entries begin: tensor t owns entries bounds[t]:bounds[t + 1]."""
        return np.searchsorted(self.index, manifest.starts).astype(np.int64)

    def check(self, manifest: Manifest) -> None:
        """Raise FrameError unless every entry lies inside a tensor, in order, and within the limits."""
        if len(self.exponents) != len(manifest.tensors) or len(self.index) != len(self.levels):
            raise FrameError(Refusal.BAD_HEADER, "lengths differ")
        if len(self.exponents) and (self.exponents.min() < MIN_EXPONENT or self.exponents.max() > MAX_EXPONENT):
            raise FrameError(Refusal.NON_FINITE, "exponent outside its limits")
        if not len(self.index):
            return
        if self.index[0] < 0 or self.index[-1] >= manifest.length or not (self.index[1:] > self.index[:-1]).all():
            raise FrameError(Refusal.BAD_INDEX, "not ascending inside the index space")
        if not self.levels.all() or self.levels.max() > MAX_LEVEL or self.levels.min() < -MAX_LEVEL:
            raise FrameError(Refusal.OVERFLOW, "a level is zero or at least 2^30")
        bounds = self.bounds(manifest)
        used = np.flatnonzero(bounds[1:] > bounds[:-1])
        last = self.index[bounds[used + 1] - 1] - manifest.starts[used]
        if (last >= manifest.sizes[used]).any():
            raise FrameError(Refusal.BAD_INDEX, "an entry lies in the padding")

    def counts(self, manifest: Manifest, log2_segment: int) -> Integers:
        """Return the number of entries of every segment of 2^log2_segment places."""
        starts = np.arange(0, manifest.length, 1 << log2_segment)
        return np.diff(np.searchsorted(self.index, np.append(starts, manifest.length)))

    def part(self, start: int, stop: int) -> tuple[Places, npt.NDArray[np.int32]]:
        """Return the places (relative to `start`) and levels of the entries between two places."""
        begin, end = np.searchsorted(self.index, [start, stop])
        return (self.index[begin:end] - start).astype(np.int32), self.levels[begin:end]
