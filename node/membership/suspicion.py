"""How long a suspect has to answer: the more members suspect it by themselves, the shorter (Lifeguard)."""

from __future__ import annotations

import math

CONFIRMED = 4
"""So many members whom it did not answer make a suspicion as good as certain."""
ALONE = 3.0
"""A suspicion that nobody shares takes so many times longer."""


class Suspicion:
    """One suspicion from its start: who shares it, and when it ends.

    Dadgar, Phillips, Currey: "Lifeguard: local health awareness for more accurate failure detection" (2018),
    section IV-B: timeout = max - (max - min) log(others + 1) / log(enough others + 1).
    """

    def __init__(self, started: float, shortest_s: float, members: int) -> None:
        # members: of the view, ourselves and the suspect included.
        self.started = started
        self._shortest_s = shortest_s * max(1.0, math.log10(max(1, members)))
        self._enough = max(1, min(CONFIRMED, members - 1))
        self._witnesses: set[str] = set()

    def witness(self, name: str) -> None:
        """Note whom it did not answer; ourselves count too."""
        if len(self._witnesses) < self._enough:
            self._witnesses.add(name)

    def postpone(self, seconds: float) -> None:
        """Give it more time: we were asleep ourselves, or it answers though it denies nothing."""
        self.started += seconds

    @property
    def ends(self) -> float:
        """When it becomes a verdict."""
        seen = max(1, len(self._witnesses))
        sure = 1.0 if seen == self._enough else math.log(seen) / math.log(self._enough)
        return self.started + self._shortest_s * (ALONE - (ALONE - 1) * sure)
