"""Awareness of our own health (Lifeguard): who is slow itself gives others more time before it suspects them."""

from __future__ import annotations

from ...protocol.clock import Clock

MAX_HEALTH = 8


class Health:
    """A score that rises with each sign that we are slow ourselves, and falls with each answer."""

    def __init__(self, clock: Clock, probe_s: float) -> None:
        self._clock = clock
        self._probe_s = probe_s
        self.score = 0
        """0: we keep up."""

    @property
    def patience(self) -> float:
        """A period, longer while we are slow ourselves."""
        return self._probe_s * (1 + self.score)

    def overslept(self, started: float, limit_s: float) -> bool:
        """Whether something took so long that this process cannot have run meanwhile."""
        return self._clock.now() - started > limit_s + self._probe_s / 2

    def worsen(self) -> None:
        """Note a sign that we are slow."""
        self.score = min(MAX_HEALTH, self.score + 1)

    def improve(self) -> None:
        """Note an answer."""
        self.score = max(0, self.score - 1)
