"""The links of a network in memory, and one call across two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

from .errors import Refusal, TransportError


class Link:
    """One direction between two nodes: messages leave one after another and arrive a latency later.

    loss, duplicates, resets: the share of requests that are lost, of messages that arrive twice, and of a stream's
    messages at which the connection breaks.
    """

    def __init__(
        self, latency_s: float, rate_bytes_s: float, loss: float, duplicates: float = 0.0, resets: float = 0.0
    ) -> None:
        self.latency_s = latency_s
        self.rate_bytes_s = rate_bytes_s
        self.loss = loss
        self.duplicates = duplicates
        self.resets = resets
        self.stopped = 0
        """How many messages have waited at a cut."""
        self._free_at = 0.0
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        """Swallow everything that leaves or would arrive from now on."""
        self._whole.clear()

    def heal(self) -> None:
        """Carry again; what waits at the cut goes on, as TCP would send it once more."""
        self._whole.set()

    async def send(self, size: int) -> float:
        """Wait until `size` bytes have left, behind all that was sent before; return when they arrive."""
        await self._pass()
        self._free_at = max(self._free_at, _now()) + size / self.rate_bytes_s
        left, arrives = self._free_at, self._free_at + self.latency_s
        await _until(left)
        return arrives

    async def arrival(self, when: float) -> None:
        """Wait for what `send` said arrives at `when`."""
        await _until(when)
        await self._pass()

    async def cross(self, size: int) -> None:
        """Send `size` bytes and wait for their arrival."""
        await self.arrival(await self.send(size))

    async def _pass(self) -> None:
        if not self._whole.is_set():
            self.stopped += 1
            await self._whole.wait()


class Call:
    """One call under way: its two links, its deadline, and whether an end of it has died."""

    def __init__(self, out: Link, back: Link, peer: str, timeout_s: float) -> None:
        self.out = out
        self.back = back
        self.peer = peer
        self._deadline = _now() + timeout_s
        self._broken = False
        self._scope: asyncio.Timeout | None = None

    def break_off(self) -> None:
        """End the call: an end of it died."""
        self._broken = True
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(_now())

    @asynccontextmanager
    async def step(self, limit_s: float = inf) -> AsyncIterator[None]:
        """Run one step of the call; TransportError when the deadline or `limit_s` passes, or an end dies."""
        if self._broken or _now() >= self._deadline:
            raise self._failure()
        scope = asyncio.timeout_at(min(self._deadline, _now() + limit_s))
        try:
            async with scope:
                self._scope = scope
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._failure() from None
        finally:
            self._scope = None
        if self._broken:
            raise self._failure()

    def _failure(self) -> TransportError:
        if self._broken:
            return TransportError(Refusal.TRANSPORT, f"the connection with {self.peer} broke off")
        return TransportError(Refusal.DEADLINE, f"{self.peer} is silent")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until(when: float) -> None:
    # A timer at the very instant: `sleep(when - now)` would round twice.
    loop = asyncio.get_running_loop()
    if when <= loop.time():
        return
    rung = loop.create_future()
    timer = loop.call_at(when, _ring, rung)
    try:
        await rung
    finally:
        timer.cancel()


def _ring(rung: asyncio.Future[None]) -> None:
    if not rung.done():  # who waited was cancelled at this very instant
        rung.set_result(None)
