"""How long a suspect has to answer: the more members suspect it by themselves, the shorter (Lifeguard)."""

from __future__ import annotations

import math

from ...protocol.clock import Clock

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


class Suspicions:
    """All suspicions under way, and those who did not answer us ourselves."""

    def __init__(self, clock: Clock, suspect_s: float) -> None:
        self._clock = clock
        self._suspect_s = suspect_s
        self._open: dict[str, Suspicion] = {}
        self._doubted: dict[str, None] = {}
        """Those who did not answer us, in the order in which we noticed, until they do."""

    def open(self, name: str, members: int) -> Suspicion:
        """Begin a suspicion, in place of an older one of the same member."""
        self._open[name] = Suspicion(self._clock.now(), self._suspect_s, members)
        return self._open[name]

    def stands(self, name: str, suspicion: Suspicion) -> bool:
        """Whether this very suspicion is still under way."""
        return self._open.get(name) is suspicion

    def ripe(self, name: str) -> bool:
        """Whether somebody has been suspected for so long that others may hold it for dead already."""
        suspicion = self._open.get(name)
        return suspicion is not None and self._clock.now() >= suspicion.started + self._suspect_s

    def witness(self, name: str, by: str) -> None:
        """Note that somebody did not answer a member; nothing happens if we do not suspect it."""
        if suspicion := self._open.get(name):
            suspicion.witness(by)

    def doubt(self, name: str) -> bool:
        """Note that somebody did not answer us; return whether that is new."""
        new = name not in self._doubted
        self._doubted[name] = None
        return new

    def trust(self, name: str) -> None:
        """Note that somebody answered us. A suspicion goes on: only the suspect itself can deny that."""
        self._doubted.pop(name, None)

    def close(self, name: str) -> None:
        """End a suspicion: the suspect lives, is dead, or left."""
        self._open.pop(name, None)
        self.trust(name)

    def doubts(self, most: int) -> tuple[str, ...]:
        """Return so many of those who did not answer us, the latest."""
        return tuple(self._doubted)[-most:]
