"""What comes of one pull, and how long it may take: a limit that moves as the envelopes tell what there is to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..protocol.clock import Clock
from ..protocol.errors import Refusal, TransportError


class Tally:
    """One call and its figures, from now on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.now()
        self._scope = asyncio.timeout(None)
        self.seconds = 0.0
        """How long the call took."""
        self.limit_s = 0.0
        """How long it was allowed to take, as its last limit had it."""
        self.arrived = 0
        """Whole frames that were what their envelopes announced."""
        self.applied = 0
        self.reason = ""
        """Why it ended early, or nothing."""

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Hold a call to its limit; raises TransportError(DEADLINE) when that passes."""
        try:
            async with self._scope:
                yield
        except TimeoutError:
            if not self._scope.expired():
                raise
            raise TransportError(Refusal.DEADLINE, f"not all of it came within {self.limit_s:.3g} s") from None
        finally:
            self.seconds = self._clock.now() - self._started
            if self._scope.when() is None:
                self.limit_s = self.seconds

    def allow(self, seconds: float) -> None:
        """Let the call go on for so long from now."""
        self.limit_s = self._clock.now() - self._started + seconds
        self._scope.reschedule(asyncio.get_running_loop().time() + seconds)

    def suspend(self) -> None:
        """Let the call go on while we are busy with what it brought."""
        self._scope.reschedule(None)

    def figures(self) -> dict[str, float | str]:
        """Return what the event of a pull says."""
        times = {"seconds": round(self.seconds, 3), "limit_s": round(self.limit_s, 3)}
        return {**times, "arrived": self.arrived, "applied": self.applied, "reason": self.reason}
