"""The loops over single entries, in numpy."""

from __future__ import annotations

import numpy as np

from .bits import Places, check_tail, ones, unpack_bits, unpack_nibbles
from .entropy import Plane
from .errors import FrameError, Refusal
from .limits import MAX_LEVEL

ESCAPE = 255
Levels = Places


def bitmap(plane: Plane, domain: int, count: int, passed: Places | None) -> Places:
    """Return those of `passed` (of the numbers below `domain`, without it) whose bit is a one: `count` of them."""
    check_tail(plane, domain)
    places = ones(plane, count)
    return places if passed is None else passed[places]


def gaps(quotients: Plane, low: Plane, shift: int, count: int, domain: int, passed: Places | None) -> Places:
    """Return the same as `bitmap`, of gaps whose quotients are bytes and whose low bits are planes.

    Sums stay below 2^57, so they cannot wrap before they are checked.
    """
    sizes = _quotients(quotients, count) << shift
    for bit, plane in enumerate(unpack_bits(low, shift * count).reshape(shift, count)):
        sizes |= plane.astype(np.int64) << bit
    places = np.cumsum(sizes + 1) - 1
    if places[-1] >= domain:
        raise FrameError(Refusal.BAD_INDEX, "gaps lead beyond the end of their segment")
    return places.astype(np.int32) if passed is None else passed[places]


def _quotients(plane: Plane, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Read `count` quotients; raise FrameError if the bytes hold another number of them."""
    ends = np.flatnonzero(plane != ESCAPE)
    if len(ends) != count or ends[-1] != len(plane) - 1:
        raise FrameError(Refusal.BAD_INDEX, f"a gap plane does not hold {count} gaps")
    escapes = np.diff(ends, prepend=-1) - 1
    quotients: np.ndarray[tuple[int], np.dtype[np.int64]] = plane[ends].astype(np.int64)
    quotients += escapes * ESCAPE
    return quotients


def lift(passed: Places, level: int, levels: Levels) -> None:
    """Set the levels of the entries that passed."""
    levels[passed] = level


def digits(plane: Plane, width: int, passed: Places | None, base: int, levels: Levels, exceptions: int) -> Places:
    """Set the levels of those that passed (of all, without it) to digit + base; return whose digit is continued."""
    count = len(levels) if passed is None else len(passed)
    digit = unpack_nibbles(plane, count) if width == 4 else plane
    levels[slice(None) if passed is None else passed] = digit.astype(np.int32) + np.int32(base)
    beyond = np.flatnonzero(digit == (1 << width) - 1)
    if len(beyond) != exceptions:
        raise FrameError(Refusal.BAD_HEADER, f"{len(beyond)} digits call for {exceptions} exceptions")
    return beyond.astype(np.int32) if passed is None else passed[beyond]


def carry(levels: Levels, beyond: Places, excess: tuple[Plane, Plane, Plane, Plane]) -> None:
    """Add its excess, a byte in each of four planes, the lowest first, to each continued level."""
    sums = levels[beyond].astype(np.int64)
    for byte, plane in enumerate(excess):
        sums += plane.astype(np.int64) << 8 * byte
    if len(sums) and sums.max() > MAX_LEVEL:
        raise FrameError(Refusal.OVERFLOW, "a level of at least 2^30")
    levels[beyond] = sums


def negate(levels: Levels, signs: Plane) -> None:
    """Negate the levels whose bit is a one."""
    np.negative(levels, where=unpack_bits(signs, len(levels)).view(np.bool_), out=levels)


def sums_fit(state: Levels, places: Places, levels: Levels, older: int, newer: int) -> bool:
    """Say whether all levels stay below 2^30 when old ones are shifted by `older` bits and new ones by `newer`."""
    sums = (state[places].astype(np.int64) << older) + (levels.astype(np.int64) << newer)
    return not len(sums) or max(int(sums.max()), -int(sums.min())) <= MAX_LEVEL


def add(state: Levels, places: Places, levels: Levels, newer: int) -> bool:
    """Add levels, shifted by `newer` bits, to a state; False, with some of them added, if a sum is 2^30 or more."""
    fits = sums_fit(state, places, levels, 0, newer)
    if fits:
        state[places] += levels << newer
    return fits


def hash_sums(start: int, places: Places, levels: Levels) -> tuple[int, int]:
    """Return the sums of the low and of the high 32 bits of level * key(start + place)."""
    products = _keys(places.astype(np.int64) + start) * levels  # below 2^31 * 2^30: no overflow
    # Sum low and high halves apart: neither overflows for up to 2^31 entries.
    return int((products & 0xFFFFFFFF).sum()), int((products >> 32).sum())


def _keys(index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Mix indexes into odd keys of 31 bits (the finaliser of splitmix64)."""
    z = index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(33)) | np.uint64(1)).astype(np.int64)
