"""What runs beside the rounds, and how all of it ends: at a stop, at a signal, or with the first that fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks that end together. What one of them dies of is for others to notice: `check`, `until_stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run one more task."""
        self._tasks.append(asyncio.create_task(work, name=name))

    def check(self) -> None:
        """Raise what a task died of, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Cancel all and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def until_stop(
    main: Awaitable[T],
    stop: asyncio.Event,
    background: Iterable[asyncio.Task[None]] = (),
    grace_s: Callable[[], float] = lambda: 0.0,
) -> T | None:
    """Return what `main` does, or None where a stop ended it early; raise if it or a background task fails.

    grace_s: asked at a stop; how long `main` may still take to end by itself.
    """
    work = asyncio.ensure_future(main)
    stopped = asyncio.create_task(stop.wait(), name="stop")
    watched: list[asyncio.Future[Any]] = [work, *background]
    try:
        await asyncio.wait([*watched, stopped], return_when=asyncio.FIRST_COMPLETED)
        if stopped.done() and (limit_s := grace_s()):
            await asyncio.wait(watched, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for task in watched:
            if task.done():
                task.result()
        return work.result() if work.done() else None
    finally:
        for pending in (work, stopped):
            pending.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM end the node cleanly; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
