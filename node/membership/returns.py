"""Damping: a member that others held for dead comes back at once, but not again and again."""

from __future__ import annotations

import math

HOLD_S = 10.0
MAX_HOLD_S = 60.0


class Returns:
    """When a member may next deny its own death.

    It waits `HOLD_S` from one return to the next, twice as long each time, `MAX_HOLD_S` at most; who stayed for that
    long, and for twice its last wait, starts again. So a member that comes and goes changes everybody's view twice a
    minute at most. It holds itself back: only it knows of all its returns, and others need not agree on anything.
    """

    def __init__(self) -> None:
        self._last = -math.inf
        self._hold_s = 0.0

    def may(self, now: float) -> bool:
        """Whether it may deny its death now."""
        return now >= self._last + self._hold_s

    def note(self, now: float) -> None:
        """Note that it has denied its death."""
        stayed = now - self._last > max(MAX_HOLD_S, 2 * self._hold_s)
        self._hold_s = HOLD_S if stayed else min(2 * self._hold_s, MAX_HOLD_S)
        self._last = now
