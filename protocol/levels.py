"""Levels: the magnitudes of a segment's entries, integers from 1 to 2^30 - 1.

A level that most entries share is told by unary planes: a mask of those above 1, among them a mask of those
above 2, and so on. What is left is digits of 4 bits, two to a byte, or of 8; what a digit cannot hold goes to
four planes of excess bytes. Pairs serve the entropy stage: a Huffman code spends at least one bit on a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import entropy, loops, masks
from .bits import Places, plane_bytes
from .entropy import Buffer
from .masks import Effort, Mask

Magnitudes: TypeAlias = npt.NDArray[np.int32]

MAX_PLANES: Final = 5
EXCESS_PLANES: Final = 4
MAJORITY: Final = 0.55
"""A level that more than this share of the entries have is told by a unary plane."""
RARE: Final = 1 / 256
"""Digits have 4 bits where at most this share of the entries needs more."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Unary planes, digits of `width` bits of what passed them all, and the `exceptions` that exceed a digit.

    width: 4 or 8, and 0 where nothing is left. excess: four planes, the lowest bytes first.
    """

    planes: tuple[Mask, ...]
    width: int
    rest: Buffer
    exceptions: int
    excess: tuple[Buffer, ...]

    @property
    def size(self) -> int:
        """Bytes of all planes."""
        return sum(map(len, (*(plane.data for plane in self.planes), self.rest, *self.excess)))


def encode(levels: Magnitudes, effort: Effort = "normal") -> Levels:
    """Code levels >= 1: unary planes up to the last level that has a majority, then digits."""
    if effort == "high":
        tried = [_encode(levels, depth, effort) for depth in range(MAX_PLANES + 1)]
        return min(tried, key=lambda coded: coded.size)
    return _encode(levels, MAX_PLANES, effort)


def _encode(levels: Magnitudes, most_planes: int, effort: Effort) -> Levels:
    planes: list[Mask] = []
    while len(levels) and len(planes) < most_planes and _wants_plane(levels, len(planes) + 1, effort):
        domain = len(levels)
        more, levels = loops.above(levels, len(planes) + 1)
        planes.append(masks.encode(more, domain, effort))
    base = len(planes) + 1
    width = best_width(levels, base)
    exceptions = int(np.count_nonzero(levels >= base + (1 << width) - 1)) if width else 0
    digits, excess = loops.pack_digits(levels, base, width or 8, exceptions)
    return Levels(tuple(planes), width, entropy.pack(digits), exceptions, _pack_excess(excess))


def decode(coded: Levels, count: int) -> Magnitudes:
    """Return `count` levels from checked lengths; raise FrameError where the planes contradict each other."""
    levels = np.ones(count, dtype=np.int32)
    passed, left = None, count
    for level, plane in enumerate(coded.planes, start=1):
        if passed is not None and plane.count < left:
            loops.lift(passed, level, levels)  # the level of those that pass no further
        passed = masks.decode(plane, left, passed)
        left = plane.count
    if left:
        beyond = _lay_digits(coded, levels, passed, left)
        del passed  # as large as the levels
        for byte, excess in enumerate(coded.excess if len(beyond) else ()):
            loops.carry(levels, beyond, entropy.unpack(excess, len(beyond)), 8 * byte)
    return levels


def _lay_digits(coded: Levels, levels: Magnitudes, passed: Places | None, left: int) -> Places:
    """Set the levels of those that passed every plane; return whose digit is continued."""
    digits = entropy.unpack(coded.rest, plane_bytes(left * coded.width))
    return loops.digits(digits, coded.width, passed, len(coded.planes) + 1, levels, coded.exceptions)


def best_width(levels: Magnitudes, base: int) -> int:
    """Return the bits of a digit for what levels have beyond `base`."""
    if not len(levels):
        return 0
    return 4 if np.count_nonzero(levels >= base + 15) <= RARE * len(levels) else 8


def _wants_plane(levels: Magnitudes, lowest: int, effort: Effort) -> bool:
    """Say whether one of the levels that unary planes still reach, `lowest` to 5, has a majority."""
    majority = MAJORITY * len(levels)
    reachable = range(lowest, MAX_PLANES + 1)
    return effort == "high" or any(np.count_nonzero(levels == level) > majority for level in reachable)


def _pack_excess(excess: npt.NDArray[np.uint32]) -> tuple[bytes, ...]:
    """Transpose the excesses into planes of equal bytes: the upper ones are nearly constant."""
    columns = excess.astype("<u4").view(np.uint8).reshape(-1, EXCESS_PLANES)
    return tuple(entropy.pack(columns[:, byte]) for byte in range(EXCESS_PLANES))
