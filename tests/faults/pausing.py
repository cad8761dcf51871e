"""Nodes of one program that stand still, as after SIGSTOP: their tasks, their timers and their doors.

Every callback of a loop carries the context of the task that asked for it. Each node runs in a context of its own;
while it is paused its callbacks are put aside, in order, and deadlines that passed meanwhile are met all at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from peermerge.protocol.clock import VirtualLoop
from peermerge.protocol.transport import PeerHandler

T = TypeVar("T")
NODE: ContextVar[str] = ContextVar("node", default="")
"""Whose task this is; empty for those of nobody."""


class _Ready(deque[asyncio.Handle]):
    """What a loop runs next, but for what belongs to paused nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.aside: dict[str, list[asyncio.Handle]] = {}

    def append(self, handle: asyncio.Handle) -> None:
        """Take a callback, or put it aside."""
        if self.aside and (owner := _owner(handle)) in self.aside:
            self.aside[owner].append(handle)
        else:
            super().append(handle)


def _owner(handle: asyncio.Handle) -> str:
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(NODE, "")


class PausingLoop(VirtualLoop):
    """A virtual loop on which single nodes may stand still."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = _Ready()
        self.held: Counter[str] = Counter()
        """How many callbacks of each node have waited for the end of a pause."""

    def pause(self, node: str) -> None:
        """Let a node stand still, if it does not already."""
        if node in self._ready.aside:
            return
        waiting, self._ready.aside[node] = list(self._ready), []
        self._ready.clear()
        for handle in waiting:
            self._ready.append(handle)

    def resume(self, node: str) -> None:
        """Let it go on, if it was paused."""
        for handle in self._ready.aside.pop(node, ()):
            self.held[node] += 1
            self._ready.append(handle)


class Door:
    """A node's handler, run in the node's context: while the node is paused calls hang, and nobody waits for it."""

    def __init__(self, handler: PeerHandler, context: Context) -> None:
        self._handler = handler
        self._context = context

    async def hello(self, request: bytes) -> bytes:
        """Let the node answer."""
        return await self._inside(self._handler.hello(request))

    async def gossip(self, request: bytes) -> bytes:
        """Let the node answer."""
        return await self._inside(self._handler.gossip(request))

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Let the node stream; it runs ahead by one message."""
        box: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)
        worker = asyncio.create_task(self._feed(request, box), context=self._context)
        try:
            while (item := await box.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            worker.cancel()

    async def _feed(self, request: bytes, box: asyncio.Queue[bytes | Exception | None]) -> None:
        try:
            async for message in self._handler.pull(request):
                await box.put(message)
        except Exception as error:
            await box.put(error)
        await box.put(None)

    async def _inside(self, answering: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(answering, context=self._context)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise
