"""How long a round waits for its neighbours: median + k * MAD of recent arrivals, between two bounds.

Arrivals that came too late count as well: without them the deadline only ever tightens. A peer that never arrives
says nothing about how long the others take, and does not count.
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
    def median_s(self) -> float:
        """The median of recent arrivals; 0 before the first."""
        return _median(list(self._arrivals))

    @property
    def spread_s(self) -> float:
        """The median absolute deviation of recent arrivals; 0 before the first."""
        arrivals = list(self._arrivals)  # a copy at one go: the page of metrics is made in another thread
        middle = _median(arrivals)
        return _median([abs(a - middle) for a in arrivals])

    @property
    def usual_s(self) -> float:
        """How long peers usually take: never more than the deadline; the floor until enough is known."""
        return min(self.seconds, self.median_s if len(self._arrivals) >= ENOUGH else self._floor_s)

    @property
    def seconds(self) -> float:
        """Return the deadline for the next round; the ceiling until enough is known."""
        if len(self._arrivals) < ENOUGH:
            return self._ceiling_s
        middle = self.median_s
        return min(self._ceiling_s, max(self._floor_s, 2 * middle, middle + self._deviations * self.spread_s))


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
