"""The tasks of one run: what any of them dies of ends the others, and the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


class Tasks:
    """Starts tasks while a run is under way."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._group is not None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Let tasks be started within. Raises what the first of them died of."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    yield
                finally:
                    self._group = None
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        """Start a task; without a run under way nothing happens."""
        try:
            if self._group is not None:
                self._group.create_task(job, name="gossip")
                return
        except RuntimeError:
            pass  # a task has failed and the run is about to say so
        job.close()


def _first(failure: BaseException) -> BaseException:
    """Return the first exception in a group of groups."""
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure
