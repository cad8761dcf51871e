"""A budget of bytes a second that all transfers of a node share."""

from __future__ import annotations

from ..protocol.clock import Clock
from ..protocol.limits import CHUNK_BYTES

TURN_S = 0.05
"""What a turn takes where bytes are scarce: a hundred transfers get one each before a peer gives up on any."""
SMALLEST = 1 << 10


class Budget:
    """Transfers take turns in the order in which they ask, a portion each: none waits for another's whole frame."""

    def __init__(self, clock: Clock, bytes_s: float = 0) -> None:
        self._clock = clock
        self._bytes_s = bytes_s
        self._free_at = 0.0
        self.portion = min(CHUNK_BYTES, max(SMALLEST, int(TURN_S * bytes_s))) if bytes_s else CHUNK_BYTES
        """Bytes of a frame that go out in one turn."""

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may go out; without a budget that is at once."""
        if not self._bytes_s:
            return
        start = max(self._clock.now(), self._free_at)
        self._free_at = start + size / self._bytes_s
        await self._clock.sleep(self._free_at - self._clock.now())
