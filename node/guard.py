"""Opinion, not validity: which of the valid replicas take part in this round's merge.

A valid frame is always applied to its replica, or the log would break; whether the replica is merged is
decided here, on P_j - P_i, and every neighbour left out is explained by a reason.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

from ..protocol.errors import Refusal

MIN_NEIGHBOURS = 3
"""A median of fewer distances says nothing about who is the outlier."""


def outliers(distances: Mapping[str, float], gate: float) -> set[str]:
    """Return the neighbours further away than `gate` times the median distance; none if gate is 0."""
    if not gate or len(distances) < MIN_NEIGHBOURS:
        return set()
    middle = statistics.median(distances.values())
    return {peer for peer, d in distances.items() if d > gate * middle > 0}


def too_old(round_: int, theirs: int, *, synchronous: bool, staleness: int) -> Refusal | None:
    """Say why a replica's round does not fit ours: synchronous rounds merge this round's versions or later ones."""
    if synchronous:
        return Refusal.DEADLINE if theirs < round_ else None
    return Refusal.STALE if round_ - theirs > staleness else None


def median_round(rounds: Iterable[int]) -> int:
    """Return the lower median of the neighbours' rounds, or -1 without any."""
    known = sorted(r for r in rounds if r >= 0)
    return known[(len(known) - 1) // 2] if known else -1


class Alarm:
    """Notices a figure that rises for several rounds running."""

    def __init__(self, name: str, rounds: int) -> None:
        self._name = name
        self._last: deque[float] = deque(maxlen=rounds + 1)

    def see(self, value: float) -> None:
        """Take one round's figure."""
        self._last.append(value)

    @property
    def warning(self) -> str | None:
        """Return the warning to show, or None."""
        values = list(self._last)
        full = len(values) == self._last.maxlen
        if full and all(a < b for a, b in pairwise(values)) and values[-1] > 1.5 * values[0]:
            return f"DIVERGENCE: {self._name} rose {len(values) - 1} rounds running, to {values[-1]:.3g}"
        return None
