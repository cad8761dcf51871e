"""How long a suspect has to answer: the more members suspect it by themselves, the shorter (Lifeguard)."""

from __future__ import annotations

import math

WITNESSES = 3
"""So many members besides us make a suspicion as good as certain."""
ALONE = 3.0
"""A suspicion that nobody shares takes so many times longer."""


class Suspicion:
    """One suspicion from its start: who shares it, and when it ends.

    Dadgar, Phillips, Currey: "Lifeguard: local health awareness for more accurate failure detection" (2018),
    section IV-B: timeout = max - (max - min) log(witnesses + 1) / log(enough + 1).
    """

    def __init__(self, started: float, shortest_s: float, members: int) -> None:
        # members: of the view, ourselves and the suspect included.
        self._started = started
        self._shortest_s = shortest_s * max(1.0, math.log10(max(1, members)))
        self._enough = min(WITNESSES, max(0, members - 2))
        self._witnesses: set[str] = set()
        self.grace_s = 0.0
        """What was added because we were late ourselves."""

    def witness(self, name: str) -> bool:
        """Note who suspects it as well; return whether that was news."""
        news = name not in self._witnesses
        self._witnesses.add(name)
        return news

    @property
    def ends(self) -> float:
        """When it becomes a verdict."""
        longest = ALONE * self._shortest_s
        if len(self._witnesses) >= self._enough:
            return self._started + self._shortest_s + self.grace_s
        sure = math.log(len(self._witnesses) + 1) / math.log(self._enough + 1)
        return self._started + longest - (longest - self._shortest_s) * sure + self.grace_s
