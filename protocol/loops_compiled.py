"""The loops over single entries, compiled (`_kernel.c`); importing this fails where nothing was compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import _kernel
from .bits import ESCAPE, Places, check_tail, plane_bytes
from .entropy import Plane
from .errors import FrameError, Refusal

Levels = Places
_NONE: Places = np.empty(0, np.int32)


def bitmap(plane: Plane, domain: int, count: int, passed: Places | None) -> Places:
    """See `loops_numpy`; `passed` is used up."""
    kept = np.empty(count, np.int32) if passed is None else passed
    if not _kernel.bitmap(plane, domain, count, kept, passed is None):
        raise FrameError(Refusal.BAD_INDEX, f"a bitmap does not hold {count} ones")
    return kept[:count]


def gaps(quotients: Plane, low: Plane, shift: int, count: int, domain: int, passed: Places | None) -> Places:
    """See `loops_numpy`; `passed` is used up."""
    check_tail(low, shift * count)
    kept = np.empty(count, np.int32) if passed is None else passed
    if not _kernel.gaps(quotients, low, shift, count, domain, kept, passed is None):
        raise FrameError(Refusal.BAD_INDEX, f"not {count} gaps, or they lead beyond the end of their segment")
    return kept[:count]


def lift(passed: Places, level: int, levels: Levels) -> None:
    """See `loops_numpy`."""
    _kernel.lift(passed, level, levels)


def digits(plane: Plane, width: int, passed: Places | None, base: int, levels: Levels, exceptions: int) -> Places:
    """See `loops_numpy`."""
    beyond = np.empty(exceptions, np.int32)
    if not _kernel.digits(plane, width, _NONE if passed is None else passed, passed is None, base, levels, beyond):
        raise FrameError(Refusal.BAD_HEADER, f"digits do not call for {exceptions} exceptions, or an unused one is set")
    return beyond


def carry(levels: Levels, beyond: Places, plane: Plane, shift: int) -> None:
    """See `loops_numpy`."""
    if not _kernel.carry(levels, beyond, plane, shift):
        raise FrameError(Refusal.OVERFLOW, "a level of at least 2^30")


def negate(levels: Levels, signs: Plane) -> None:
    """See `loops_numpy`."""
    check_tail(signs, len(levels))
    _kernel.negate(levels, signs)


def sums_fit(state: Levels, places: Places, levels: Levels, older: int, newer: int) -> bool:
    """See `loops_numpy`."""
    return _kernel.sums_fit(state, places, levels, older, newer)


def add(state: Levels, places: Places, levels: Levels, newer: int) -> bool:
    """See `loops_numpy`."""
    return _kernel.add(state, places, levels, newer)


def hash_sums(start: int, places: Places, levels: Levels) -> tuple[int, int]:
    """See `loops_numpy`."""
    return _kernel.hash(start, places, levels)


# ---- Encoding. ----


def pack_places(places: Places, domain: int) -> Plane:
    """See `loops_numpy`."""
    plane = np.zeros(plane_bytes(domain), np.uint8)
    _need(_kernel.set_bits(_ours(places), plane, domain))
    return plane


def pack_gaps(places: Places, shift: int) -> tuple[Plane, Plane]:
    """See `loops_numpy`."""
    room = len(places) + (int(places[-1]) >> shift) // ESCAPE + 1
    quotients, low = np.empty(room, np.uint8), np.zeros(plane_bytes(shift * len(places)), np.uint8)
    length = _kernel.gap_bytes(_ours(places), shift, quotients, low)
    _need(length >= 0)
    return quotients[:length], low


def split_signs(values: Levels) -> tuple[Levels, Plane]:
    """See `loops_numpy`."""
    magnitudes, signs = np.empty(len(values), np.int32), np.zeros(plane_bytes(len(values)), np.uint8)
    _kernel.split_signs(_ours(values), magnitudes, signs)
    return magnitudes, signs


def above(levels: Levels, least: int) -> tuple[Places, Levels]:
    """See `loops_numpy`."""
    places, kept = np.empty(len(levels), np.int32), np.empty(len(levels), np.int32)
    found = _kernel.above(_ours(levels), least, places, kept)
    return places[:found], kept[:found]


def pack_digits(levels: Levels, base: int, width: int, exceptions: int) -> tuple[Plane, npt.NDArray[np.uint32]]:
    """See `loops_numpy`."""
    plane, excess = np.zeros(plane_bytes(len(levels) * width), np.uint8), np.empty(exceptions, np.uint32)
    _need(_kernel.pack_digits(_ours(levels), base, width, plane, excess) == exceptions)
    return plane, excess


def _ours(numbers: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the array as the kernel reads it; what the codec passes already is so."""
    return np.ascontiguousarray(numbers, np.int32)


def _need(done: bool) -> None:
    if not done:
        raise ValueError("places must ascend below their domain, and levels be at least their base")
