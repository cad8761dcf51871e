"""Real and virtual time.

Everything that waits goes through asyncio, whose loop keeps the time. `run_virtual` runs a program on
a loop whose clock jumps to the next timer as soon as nothing is left to do: hours pass in
milliseconds and always in the same order. Work on the model is declared to the clock: in real time it
runs in the one worker thread; in virtual time it runs at once and costs what it declares.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time as a node sees it."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...

    async def work(self, job: Callable[[], T], cost_s: float = 0.0) -> T:
        """Run a blocking job that may touch the model; jobs of one clock never overlap."""
        ...

    def close(self) -> None:
        """Let go of the worker thread."""
        ...


class RealClock:
    """The machine's monotonic clock and one worker thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="peermerge-work")

    def now(self) -> float:
        """Seconds on the monotonic clock that asyncio's loops use too; any thread may ask."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)

    async def work(self, job: Callable[[], T], cost_s: float = 0.0) -> T:
        """Run `job` in the worker thread; the declared cost is of no interest here."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    def close(self) -> None:
        """End the worker thread once its job is done."""
        self._worker.shutdown(wait=True, cancel_futures=True)


class VirtualClock:
    """The time of a loop started by `run_virtual`, and one node's turn to work in it."""

    def __init__(self) -> None:
        self._worker = asyncio.Lock()

    def now(self) -> float:
        """Virtual seconds since the start."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    async def work(self, job: Callable[[], T], cost_s: float = 0.0) -> T:
        """Run `job` while the clock stands still, then let its declared cost pass; the next job waits for that."""
        async with self._worker:
            result = job()
            await asyncio.sleep(cost_s)
            return result

    def close(self) -> None:
        """Nothing to let go of."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits: it moves the loop's clock to the next timer instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll, unless there is something to do anyway; if nothing is ready, jump."""
        if timeout == 0:
            return []
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits and no timer is set: the virtual program is stuck")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock starts at zero and jumps to the next timer as soon as nothing is left to do."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio fires timers due before now + resolution. After three months the usual nanosecond is lost
        # in rounding and no timer would ever be due; this one lasts for ten years.
        self._clock_resolution = 1e-7

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]  # a type variable for each argument says no more
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` at once: a thread would take real time, and another one in every run."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


def run_virtual(program: Coroutine[Any, Any, T], loop: Callable[[], VirtualLoop] = VirtualLoop) -> T:
    """Run a program on a virtual clock that starts at zero and return its result."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(program)
