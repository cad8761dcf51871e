"""Bit planes and nibble planes: entries little-endian within bytes, the unused bits of the last byte zero."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .entropy import Buffer, Plane
from .errors import FrameError, Refusal

Integers: TypeAlias = npt.NDArray[np.int64]
Places: TypeAlias = npt.NDArray[np.int32]
"""Positions within a segment."""

ESCAPE: Final = 255
"""A byte of a gap plane that adds 255 to the quotient and passes on to the next byte."""


BLOCK_BYTES: Final = 1 << 13
"""Bits are looked for in so many bytes at a time."""


def plane_bytes(bits: int) -> int:
    """Return the length of a plane of this many bits."""
    return (bits + 7) // 8


def pack_bits(bits: npt.NDArray[Any]) -> Plane:
    """Return the plane of an array of booleans, or of integers whose non-zero values are ones."""
    return np.packbits(bits, bitorder="little")


def unpack_bits(stored: Buffer | Plane, count: int) -> npt.NDArray[np.uint8]:
    """Return `count` zeros and ones from a plane of exactly plane_bytes(count) bytes."""
    plane = np.frombuffer(stored, dtype=np.uint8)
    check_tail(plane, count)
    return np.unpackbits(plane, count=count, bitorder="little")


def pack_nibbles(digits: Plane) -> Plane:
    """Return digits below 16 two to a byte, the earlier one in the low half."""
    pairs = np.zeros(len(digits) + len(digits) % 2, dtype=np.uint8)
    pairs[: len(digits)] = digits
    return pairs[0::2] + pairs[1::2] * np.uint8(16)


def unpack_nibbles(plane: Plane, count: int) -> Plane:
    """Return `count` digits below 16; raise FrameError if a half byte without a digit is not zero."""
    digits = np.empty(2 * len(plane), dtype=np.uint8)
    digits[0::2] = plane & 15
    digits[1::2] = plane >> 4
    if count % 2 and digits[-1]:
        raise FrameError(Refusal.BAD_HEADER, "a half byte beyond the last digit is set")
    return digits[:count]


def check_tail(plane: Plane, count: int) -> None:
    """Raise FrameError unless the bits beyond `count` in the last byte are zero."""
    if count % 8 and plane[-1] >> (count % 8):
        raise FrameError(Refusal.BAD_INDEX, "a bit beyond the end of its plane is set")


def ones(plane: Plane, count: int) -> Places:
    """Return the positions of the `count` ones of a plane, ascending; raise FrameError if there are more or fewer.

    Walks 64-bit words and opens only those that hold a one: an almost empty plane costs next to nothing.
    """
    places = np.empty(count, np.int32)
    found = 0
    for start in range(0, len(plane), BLOCK_BYTES):
        part = plane[start : start + BLOCK_BYTES]
        words = np.frombuffer(part.tobytes() + bytes(-len(part) % 8), dtype=np.uint64)
        used = np.flatnonzero(words)
        bits = np.unpackbits(words[used].view(np.uint8), bitorder="little").view(np.bool_)
        here = np.flatnonzero(bits)
        if found + len(here) > count:
            break
        at = here if len(used) == len(words) else used[here >> 6] * 64 + (here & 63)
        places[found : found + len(here)] = at + 8 * start
        found += len(here)
    else:
        if found == count:
            return places
    raise FrameError(Refusal.BAD_INDEX, f"a bitmap does not hold {count} ones")
