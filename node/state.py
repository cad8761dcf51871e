"""A published state: one integer vector and an exponent per tensor, equal bit for bit on every node.

The value of entry i of tensor t is `levels[i] * 2 ** exponents[t]`. Sums of such values are exact, so
the order, the device and the number of threads do not matter. A frame with a finer grid lowers the
exponent and shifts older levels; the exponent of a tensor is the finest that any frame has named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..protocol.delta import Delta
from ..protocol.errors import FrameError, Refusal
from ..protocol.limits import MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from ..protocol.manifest import Manifest

PRIME = (1 << 61) - 1
"""States are hashed modulo this Mersenne prime."""


@dataclass(frozen=True, slots=True)
class Change:
    """A checked delta, ready to be written into the state it was prepared for; applying it cannot fail."""

    delta: Delta
    exponents: npt.NDArray[np.int8]
    values: npt.NDArray[np.int32]
    digest: int


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
        self.digest = 0 if levels is None else linear_hash(self.snapshot(), manifest)
        self.fresh = np.empty(0, np.int64)
        """The entries that the newest delta brought; empty where that is not known."""

    def copy(self) -> State:
        """Return an independent state of equal content."""
        twin = State(self.manifest, self.floors)
        twin.levels = np.array(self.levels)
        twin.exponents = self.exponents.copy()
        twin.digest = self.digest
        twin.fresh = self.fresh
        return twin

    def prepare(self, delta: Delta) -> Change:
        """Check a delta against this state without changing it.

        Raises FrameError if an entry lies outside its tensor, a grid is finer than the floor, or a level would
        leave int32's safe range.
        """
        delta.check(self.manifest)
        if (delta.exponents < self.floors).any():
            raise FrameError(Refusal.OVERFLOW, "a grid finer than the base allows")
        exponents = np.minimum(self.exponents, delta.exponents)
        shifts = self.exponents.astype(np.int64) - exponents
        self._check_shifts(shifts)
        values = self._sums(delta, exponents, shifts)
        digest = (self.digest + linear_hash(delta, self.manifest)) % PRIME
        return Change(delta, exponents, values, digest)

    def apply(self, change: Change) -> None:
        """Write a prepared change."""
        for t in np.flatnonzero(self.exponents != change.exponents):
            part = self.levels[self.manifest.starts[t] : self.manifest.starts[t + 1]]
            # Levels were checked: where the shift is beyond int32 they are all zero.
            part <<= min(31, int(self.exponents[t]) - int(change.exponents[t]))
        self.levels[change.delta.index] = change.values
        self.exponents = change.exponents
        self.digest = change.digest
        self.fresh = change.delta.index

    def snapshot(self) -> Delta:
        """Return the whole state as one delta from the base."""
        index = np.flatnonzero(self.levels).astype(np.int64)
        return Delta(self.exponents.copy(), index, self.levels[index])

    def tensor(self, t: int, device: torch.device) -> Tensor:
        """Return tensor t's values, flat, in float32."""
        return self._exact(t, device).float()

    def minus(self, other: State, t: int, device: torch.device) -> Tensor:
        """Return tensor t of this state minus the other's, flat, in float32; exact before one rounding."""
        mine, theirs = int(self.exponents[t]), int(other.exponents[t])
        if mine == theirs:
            # Both below 2^30: the difference fits int32.
            return (self._part(t, device) - other._part(t, device)).float() * math.ldexp(1.0, mine)
        return (self._exact(t, device) - other._exact(t, device)).float()

    def _exact(self, t: int, device: torch.device) -> Tensor:
        # A product with a power of two is exact on every device; a device's own pow or ldexp need not be.
        return self._part(t, device).double() * math.ldexp(1.0, int(self.exponents[t]))

    def fresh_in(self, t: int, device: torch.device) -> Tensor:
        """Return the positions within tensor t that the newest delta brought."""
        start = int(self.manifest.starts[t])
        a, b = np.searchsorted(self.fresh, [start, int(self.manifest.starts[t + 1])])
        return torch.from_numpy(self.fresh[a:b] - start).to(device)

    def _part(self, t: int, device: torch.device) -> Tensor:
        start = int(self.manifest.starts[t])
        part = self.levels[start : start + self.manifest.tensors[t].size]
        return torch.from_numpy(part).to(device)

    def _check_shifts(self, shifts: npt.NDArray[np.int64]) -> None:
        for t in np.flatnonzero(shifts):
            part = self.levels[self.manifest.starts[t] : self.manifest.starts[t + 1]]
            largest = max(int(part.max()), -int(part.min())) if len(part) else 0
            if largest << min(64, int(shifts[t])) > MAX_LEVEL:
                raise FrameError(Refusal.OVERFLOW, self.manifest.tensors[t].name)

    def _sums(
        self, delta: Delta, exponents: npt.NDArray[np.int8], shifts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        counts = np.diff(delta.bounds(self.manifest))
        coarser = delta.exponents.astype(np.int64) - exponents
        if (coarser[counts > 0] > 30).any():
            raise FrameError(Refusal.OVERFLOW, "a level on a grid far above the state's")
        old = self.levels[delta.index].astype(np.int64) << np.repeat(np.minimum(shifts, 31), counts)
        sums: npt.NDArray[np.int64] = old + (
            delta.levels.astype(np.int64) << np.repeat(np.clip(coarser, 0, 30), counts)
        )
        if len(sums) and np.abs(sums).max() > MAX_LEVEL:
            raise FrameError(Refusal.OVERFLOW, "an accumulated level of 2^30 or more")
        return sums.astype(np.int32)


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


def linear_hash(delta: Delta, manifest: Manifest) -> int:
    """Return sum of value * key(index) mod 2^61 - 1, values in units of 2^-126.

    Linear, so a state's hash follows from its deltas in O(entries), whatever grid they came on.
    """
    if not len(delta):
        return 0
    bounds = delta.bounds(manifest)
    used = np.flatnonzero(bounds[1:] > bounds[:-1])
    products = _keys(delta.index) * delta.levels  # below 2^31 * 2^30: no overflow
    # Sum low and high halves apart: neither overflows for up to 2^31 entries.
    low = np.add.reduceat(products & 0xFFFFFFFF, bounds[used])
    high = np.add.reduceat(products >> 32, bounds[used])
    total = 0
    for t, a, b in zip(used.tolist(), low.tolist(), high.tolist(), strict=True):
        total += ((b << 32) + a) * pow(2, int(delta.exponents[t]) - MIN_EXPONENT, PRIME)
    return total % PRIME


def _keys(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Mix indexes into odd keys of 31 bits (the finaliser of splitmix64)."""
    z = index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(33)) | np.uint64(1)).astype(np.int64)
