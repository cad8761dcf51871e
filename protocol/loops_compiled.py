"""The loops over single entries, compiled (`_kernel.c`); importing this fails where nothing was compiled."""

from __future__ import annotations

import numpy as np

from . import _kernel
from .bits import Places, check_tail
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


def carry(levels: Levels, beyond: Places, excess: tuple[Plane, Plane, Plane, Plane]) -> None:
    """See `loops_numpy`."""
    if not _kernel.carry(levels, beyond, *excess):
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
