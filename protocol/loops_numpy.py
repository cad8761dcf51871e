"""The loops over single entries, in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .bits import (
    ESCAPE,
    Integers,
    Places,
    check_tail,
    ones,
    pack_bits,
    pack_nibbles,
    plane_bytes,
    unpack_bits,
    unpack_nibbles,
)
from .entropy import Plane
from .errors import FrameError, Refusal
from .limits import MAX_LEVEL

Levels = Places
BLOCK = 1 << 15


def bitmap(plane: Plane, domain: int, count: int, passed: Places | None) -> Places:
    """Return those of `passed` (of the numbers below `domain`, without it) whose bit is a one: `count` of them."""
    check_tail(plane, domain)
    places = ones(plane, count)
    return places if passed is None else passed[places]


def gaps(quotients: Plane, low: Plane, shift: int, count: int, domain: int, passed: Places | None) -> Places:
    """Return the same as `bitmap`, of gaps whose quotients are bytes and whose low bits are planes.

    Sums stay below 2^57, so they cannot wrap before they are checked.
    """
    check_tail(low, shift * count)
    places = np.empty(count, np.int32)
    found, place = 0, -1
    for sizes in _quotients(quotients):
        if found + len(sizes) > count:
            raise FrameError(Refusal.BAD_INDEX, f"a gap plane does not hold {count} gaps")
        sizes <<= shift
        for bit in range(shift):
            sizes |= _bits_at(low, bit * count + found, len(sizes)) << bit
        ends = np.cumsum(sizes + 1) + place
        place = int(ends[-1])
        if place >= domain:
            raise FrameError(Refusal.BAD_INDEX, "gaps lead beyond the end of their segment")
        places[found : found + len(ends)] = ends
        found += len(ends)
    if found != count:
        raise FrameError(Refusal.BAD_INDEX, f"a gap plane does not hold {count} gaps")
    return places if passed is None else passed[places]


def _quotients(plane: Plane) -> Iterator[Integers]:
    """Yield the quotients, a block of bytes at a time; raise FrameError if the last is not complete."""
    pending = 0
    for block in _blocks(len(plane)):
        part = plane[block]
        ends = np.flatnonzero(part != ESCAPE)
        if len(ends):
            quotients: Integers = (np.diff(ends, prepend=-1) - 1).astype(np.int64)
            quotients[0] += pending
            quotients *= ESCAPE
            quotients += part[ends]
            yield quotients
            pending = 0
        pending += len(part) - 1 - (int(ends[-1]) if len(ends) else -1)
    if pending:
        raise FrameError(Refusal.BAD_INDEX, "a gap plane ends within a gap")


def _bits_at(plane: Plane, start: int, count: int) -> Integers:
    bits = np.unpackbits(plane[start >> 3 : plane_bytes(start + count)], bitorder="little")
    return bits[start & 7 : (start & 7) + count].astype(np.int64)


def lift(passed: Places, level: int, levels: Levels) -> None:
    """Set the levels of the entries that passed."""
    levels[passed] = level


def digits(plane: Plane, width: int, passed: Places | None, base: int, levels: Levels, exceptions: int) -> Places:
    """Set the levels of those that passed (of all, without it) to digit + base; return whose digit is continued."""
    count = len(levels) if passed is None else len(passed)
    beyond = np.empty(exceptions, np.int32)
    found = 0
    for block in _blocks(count):
        part = plane[block.start * width // 8 : plane_bytes(block.stop * width)]
        digit = unpack_nibbles(part, block.stop - block.start) if width == 4 else part
        entries = np.arange(block.start, block.stop, dtype=np.int32) if passed is None else passed[block]
        levels[entries] = digit.astype(np.int32) + np.int32(base)
        more = entries[digit == (1 << width) - 1]
        if found + len(more) > exceptions:
            break
        beyond[found : found + len(more)] = more
        found += len(more)
    else:
        if found == exceptions:
            return beyond
    raise FrameError(Refusal.BAD_HEADER, f"digits do not call for {exceptions} exceptions")


def carry(levels: Levels, beyond: Places, plane: Plane, shift: int) -> None:
    """Add one byte of its excess to each continued level."""
    for block in _blocks(len(beyond)):
        sums = levels[beyond[block]] + (plane[block].astype(np.int64) << shift)
        if sums.max() > MAX_LEVEL:
            raise FrameError(Refusal.OVERFLOW, "a level of at least 2^30")
        levels[beyond[block]] = sums


def negate(levels: Levels, signs: Plane) -> None:
    """Negate the levels whose bit is a one."""
    np.negative(levels, where=unpack_bits(signs, len(levels)).view(np.bool_), out=levels)


def sums_fit(state: Levels, places: Places, levels: Levels, older: int, newer: int) -> bool:
    """Say whether all levels stay below 2^30 when old ones are shifted by `older` bits and new ones by `newer`."""
    return all(_sums(state, places[b], levels[b], older, newer) is not None for b in _blocks(len(places)))


def add(state: Levels, places: Places, levels: Levels, newer: int) -> bool:
    """Add levels, shifted by `newer` bits, to a state; False, with some of them added, if a sum is 2^30 or more."""
    for block in _blocks(len(places)):
        at = places[block].astype(np.intp)
        sums = _sums(state, at, levels[block], 0, newer)
        if sums is None:
            return False
        state[at] = sums
    return True


def _sums(
    state: Levels, places: npt.NDArray[np.signedinteger], levels: Levels, older: int, newer: int
) -> npt.NDArray[np.signedinteger] | None:
    kind: Any = np.int64 if older or newer else np.int32  # two levels below 2^30 do not overflow
    sums = state[places].astype(kind, copy=False) << older
    sums += levels.astype(kind, copy=False) << newer
    return sums if max(int(sums.max()), -int(sums.min())) <= MAX_LEVEL else None


def hash_sums(start: int, places: Places, levels: Levels) -> tuple[int, int]:
    """Return the sums of the low and of the high 32 bits of level * key(start + place)."""
    low = high = 0
    for block in _blocks(len(places)):
        products = _keys(places[block].astype(np.int64) + start) * levels[block]  # below 2^31 * 2^30: no overflow
        low += int((products & 0xFFFFFFFF).sum())
        high += int((products >> 32).sum())
    return low, high


def _blocks(count: int) -> list[slice]:
    """Cut entries into blocks whose temporaries stay small."""
    return [slice(start, min(count, start + BLOCK)) for start in range(0, count, BLOCK)]


def _keys(index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Mix indexes into odd keys of 31 bits (the finaliser of splitmix64)."""
    z = index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(33)) | np.uint64(1)).astype(np.int64)


# ---- Encoding. ----


def pack_places(places: Places, domain: int) -> Plane:
    """Return the bitmap of ascending places below `domain`."""
    taken = np.zeros(domain, np.bool_)
    taken[places] = True
    return pack_bits(taken)


def pack_gaps(places: Places, shift: int) -> tuple[Plane, Plane]:
    """Return the bytes of the quotients of the gaps before each place by 2^shift, and the planes of their low bits."""
    sizes = np.diff(places, prepend=np.int32(-1)) - np.int32(1)
    quotients = sizes >> shift
    escapes = quotients // ESCAPE
    ends = np.cumsum(escapes, dtype=np.int64) + np.arange(len(quotients))
    plane = np.full(int(ends[-1]) + 1, ESCAPE, dtype=np.uint8)
    plane[ends] = quotients - escapes * ESCAPE
    return plane, pack_bits((sizes >> np.arange(shift, dtype=np.int32)[:, None]) & 1)


def split_signs(values: Levels) -> tuple[Levels, Plane]:
    """Return magnitudes, and a one for each negative value."""
    return np.abs(values), pack_bits(values < 0)


def above(levels: Levels, least: int) -> tuple[Places, Levels]:
    """Return where a level is above `least`, and those levels."""
    places = np.flatnonzero(levels > least).astype(np.int32)
    return places, levels[places]


def pack_digits(levels: Levels, base: int, width: int, exceptions: int) -> tuple[Plane, npt.NDArray[np.uint32]]:
    """Return digits of level - base, two of 4 bits to a byte, and the excesses of those that are continued."""
    rest, most = levels - base, (1 << width) - 1
    digits = np.minimum(rest, most).astype(np.uint8)
    excess = (rest[rest >= most] - most).astype(np.uint32) if exceptions else np.empty(0, np.uint32)
    return (pack_nibbles(digits) if width == 4 else digits), excess
