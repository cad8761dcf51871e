"""How long a round waits for its neighbours: median + k * MAD of recent arrivals, between two bounds.

Arrivals that came too late count as well: without them the deadline only ever tightens.
"""

from __future__ import annotations

import statistics
from collections import deque

REMEMBERED = 64
ENOUGH = 4


class AdaptiveDeadline:
    """Seconds to wait after our own publishing."""

    def __init__(self, floor_s: float, ceiling_s: float, deviations: float) -> None:
        self._floor_s = floor_s
        self._ceiling_s = ceiling_s
        self._deviations = deviations
        self._arrivals: deque[float] = deque(maxlen=REMEMBERED)

    def observe(self, arrival_s: float) -> None:
        """Take the seconds between our publishing and a neighbour's arrival, late or not."""
        self._arrivals.append(max(0.0, arrival_s))

    @property
    def seconds(self) -> float:
        """Return the deadline for the next round; the ceiling until enough is known."""
        if len(self._arrivals) < ENOUGH:
            return self._ceiling_s
        middle = statistics.median(self._arrivals)
        spread = statistics.median(abs(a - middle) for a in self._arrivals)
        return min(self._ceiling_s, max(self._floor_s, 2 * middle, middle + self._deviations * spread))
