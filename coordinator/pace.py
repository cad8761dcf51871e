"""Who calls too often waits: a client in a loop gets no more than its share of the coordinator."""

from __future__ import annotations

from ..protocol.clock import Clock
from ..protocol.errors import PeerError, Refusal

CALLS_S = 100.0
"""Calls that a connection may make in a second; a node needs one in a heartbeat."""
BURST_S = 10.0
"""After so long a silence it may make at once what it may make in this time."""
PATIENCE_S = 2.0
"""A call that would wait longer is refused: with the streams that a connection may have, none does."""
MAX_KNOWN = 4096
"""Connections of which it is known when they last called; beyond, those that were silent are forgotten."""


class Pace:
    """When the next call of each connection is due: a token bucket, counted in time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    async def keep(self, connection: str) -> None:
        """Return when a call is due. Raises PeerError."""
        now = self._clock.now()
        if len(self._due) >= MAX_KNOWN:
            self._due = {known: due for known, due in self._due.items() if due > now - BURST_S}
        due = max(now - BURST_S, self._due.get(connection, now - BURST_S)) + 1 / CALLS_S
        if due - now > PATIENCE_S:
            raise PeerError(Refusal.RATE_LIMITED, f"more than {CALLS_S:g} calls in a second")
        self._due[connection] = due
        await self._clock.sleep(max(0.0, due - now))
