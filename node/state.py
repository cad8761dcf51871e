"""A published state: one integer vector and an exponent per tensor, equal bit for bit on every node.

The value of entry i of tensor t is `levels[i] * 2 ** exponents[t]`. Sums of such values are exact, so
the order, the device and the number of threads do not matter. A frame with a finer grid lowers the
exponent and shifts older levels; the exponent of a tensor is the finest that any frame has named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..protocol import loops
from ..protocol.bits import Integers, Places
from ..protocol.codec import Frame, Part, Run, runs
from ..protocol.errors import FrameError, Refusal
from ..protocol.limits import LOG2_SEGMENT, MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from ..protocol.manifest import Manifest

PRIME = (1 << 61) - 1
"""States are hashed modulo this Mersenne prime."""
MAX_SHIFT = 30
"""How much coarser than the state's grid a frame's may be, in bits."""


@dataclass(frozen=True, slots=True)
class Change:
    """A frame that was checked against the state it was prepared for; applying it cannot fail."""

    frame: Frame
    exponents: npt.NDArray[np.int8]
    digest: int
    undo: bool


class State:
    """A published task vector P in the flat index space; starts at zero, the base."""

    def __init__(
        self,
        manifest: Manifest,
        floors: npt.NDArray[np.int8],
        levels: npt.NDArray[np.int32] | None = None,
        exponents: npt.NDArray[np.int8] | None = None,
    ) -> None:
        self.manifest = manifest
        self.floors = floors
        self.levels = np.zeros(manifest.length, np.int32) if levels is None else levels
        self.exponents = np.full(len(manifest.tensors), MAX_EXPONENT, np.int8) if exponents is None else exponents
        self.digest = 0 if levels is None else self._hash()
        self.fresh = np.empty(0, np.uint8)
        """A bit for each place that the newest frame brought; empty where that is not known."""

    def copy(self) -> State:
        """Return an independent state of equal content."""
        twin = State(self.manifest, self.floors)
        twin.levels = np.array(self.levels)
        twin.exponents = self.exponents.copy()
        twin.digest = self.digest
        twin.fresh = self.fresh.copy()
        return twin

    def prepare(self, frame: Frame, *, undo: bool = False, threads: int = 1) -> Change:
        """Check a frame, or its reversal, against this state without changing it; hold one segment at a time.

        Raises FrameError if a plane is not what the format says, a grid is finer than the floor, or a level would
        leave int32's safe range.
        """
        if (frame.exponents < self.floors).any():
            raise FrameError(Refusal.OVERFLOW, "a grid finer than the base allows")
        exponents = np.minimum(self.exponents, frame.exponents)
        older = self.exponents.astype(np.int64) - exponents
        newer = frame.exponents.astype(np.int64) - exponents
        self._check_shifts(older)

        def checked(part: Part) -> int:
            levels = -part.levels if undo else part.levels
            for run in part.runs:
                new = int(newer[run.tensor])
                if new > MAX_SHIFT or not self._fits(part, run, levels, min(31, int(older[run.tensor])), new):
                    raise FrameError(Refusal.OVERFLOW, self.manifest.tensors[run.tensor].name)
            return hash_part(part.start, part.places, levels, part.runs, frame.exponents)

        digest = (self.digest + sum(frame.map(checked, threads))) % PRIME
        return Change(frame, exponents, digest, undo)

    def apply(self, change: Change, *, threads: int = 1) -> None:
        """Write a prepared change."""
        for t in np.flatnonzero(self.exponents != change.exponents):
            part = self.levels[self.manifest.starts[t] : self.manifest.starts[t + 1]]
            # Levels were checked: where the shift is beyond int32 they are all zero.
            part <<= min(31, int(self.exponents[t]) - int(change.exponents[t]))
        newer = change.frame.exponents.astype(np.int64) - change.exponents
        self.fresh = np.zeros(self.manifest.length // 8, np.uint8)

        def write(part: Part) -> None:
            levels = -part.levels if change.undo else part.levels
            here = self.levels[part.start : part.start + part.size]
            for run in part.runs:
                entries = slice(run.begin, run.end)
                loops.add(here, part.places[entries], levels[entries], int(newer[run.tensor]))
            _mark(self.fresh, part)

        for _ in change.frame.map(write, threads):
            pass
        self.exponents = change.exponents
        self.digest = change.digest

    # ---- A state is a source of frames: of snapshots. ----

    def check(self, manifest: Manifest) -> None:
        """Every state that was applied is valid: nothing is left to check."""

    def counts(self, manifest: Manifest, log2_segment: int) -> Integers:
        """Return the number of entries of every segment of 2^log2_segment places."""
        starts = range(0, manifest.length, 1 << log2_segment)
        return np.array([np.count_nonzero(self.levels[s : s + (1 << log2_segment)]) for s in starts], dtype=np.int64)

    def part(self, start: int, stop: int) -> tuple[Places, npt.NDArray[np.int32]]:
        """Return the places (relative to `start`) and levels of the entries between two places."""
        levels = self.levels[start:stop]
        places = np.flatnonzero(levels)
        return places.astype(np.int32), np.asarray(levels[places])

    def tensor(self, t: int, device: torch.device) -> Tensor:
        """Return tensor t's values, flat, in float32."""
        return self._exact(t, device).float()

    def minus(self, other: State, t: int, device: torch.device) -> Tensor:
        """Return tensor t of this state minus the other's, flat, in float32; exact before one rounding."""
        mine, theirs = int(self.exponents[t]), int(other.exponents[t])
        if mine == theirs:
            # Both below 2^30: the difference fits int32.
            return (self._part(t, device) - other._part(t, device)).float().mul_(math.ldexp(1.0, mine))
        return (self._exact(t, device) - other._exact(t, device)).float()

    def _exact(self, t: int, device: torch.device) -> Tensor:
        # A product with a power of two is exact on every device; a device's own pow or ldexp need not be.
        return self._part(t, device).double() * math.ldexp(1.0, int(self.exponents[t]))

    def fresh_in(self, t: int, other: State, device: torch.device) -> Tensor:
        """Return the positions within tensor t that the newest frame of this state or of the other brought."""
        start, end = (int(place) // 8 for place in self.manifest.starts[t : t + 2])
        mine, theirs = self.fresh[start:end], other.fresh[start:end]
        either = mine | theirs if len(mine) == len(theirs) else max(mine, theirs, key=len)  # one may be unknown
        bits = np.unpackbits(either, bitorder="little").view(np.bool_)
        return torch.from_numpy(bits.nonzero()[0]).to(device)

    def _part(self, t: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self.levels[self.manifest.places[t]]).to(device)

    def _check_shifts(self, shifts: npt.NDArray[np.int64]) -> None:
        for t in np.flatnonzero(shifts):
            part = self.levels[self.manifest.starts[t] : self.manifest.starts[t + 1]]
            largest = max(int(part.max()), -int(part.min())) if len(part) else 0
            if largest << min(64, int(shifts[t])) > MAX_LEVEL:
                raise FrameError(Refusal.OVERFLOW, self.manifest.tensors[t].name)

    def _fits(self, part: Part, run: Run, levels: npt.NDArray[np.int32], older: int, newer: int) -> bool:
        here = self.levels[part.start : part.start + part.size]
        entries = slice(run.begin, run.end)
        return loops.sums_fit(here, part.places[entries], levels[entries], older, newer)

    def _hash(self) -> int:
        """Return the digest of levels and exponents as they are."""
        total = 0
        for start in range(0, self.manifest.length, 1 << LOG2_SEGMENT):
            stop = min(self.manifest.length, start + (1 << LOG2_SEGMENT))
            places, levels = self.part(start, stop)
            total += hash_part(start, places, levels, runs(self.manifest, start, stop - start, places), self.exponents)
        return total % PRIME


def values(state: State) -> Tensor:
    """Return all values as one flat float32 vector on the host."""
    flat = torch.zeros(state.manifest.length)
    for t, (_, place) in enumerate(state.manifest.slices()):
        flat[place] = state.tensor(t, flat.device)
    return flat


def floors(manifest: Manifest, base: Tensor, grid_bits: int) -> npt.NDArray[np.int8]:
    """Return the finest exponent allowed per tensor: `grid_bits` below its largest base value (1 where zero)."""
    result = np.empty(len(manifest.tensors), np.int8)
    for t, (spec, place) in enumerate(manifest.slices()):
        largest = float(base[place].abs().max()) if spec.size else 0.0
        exponent = int(np.floor(np.log2(largest))) if largest > 0 else 0
        result[t] = np.clip(exponent - grid_bits, MIN_EXPONENT, MAX_EXPONENT)
    return result


def taken(frame: Frame) -> npt.NDArray[np.uint8]:
    """Return a bit for each place of a frame's entries, as `State.fresh` holds them."""
    bits = np.zeros(frame.manifest.length // 8, np.uint8)
    for _ in frame.map(partial(_mark, bits)):
        pass
    return bits


def _mark(bits: npt.NDArray[np.uint8], part: Part) -> None:
    bits[part.start // 8 : (part.start + part.size) // 8] = loops.pack_places(part.places, part.size)


def hash_part(
    start: int,
    places: Places,
    levels: npt.NDArray[np.int32],
    split: tuple[Run, ...],
    exponents: npt.NDArray[np.int8],
) -> int:
    """Return sum of value * key(place), values in units of 2^-126; states are hashed by it modulo 2^61 - 1.

    Linear, so a state's hash follows from its frames in O(entries), whatever grid they came on.
    """
    total = 0
    for run in split:
        low, high = loops.hash_sums(start, places[run.begin : run.end], levels[run.begin : run.end])
        total += ((high << 32) + low) * pow(2, int(exponents[run.tensor]) - MIN_EXPONENT, PRIME)
    return total % PRIME
