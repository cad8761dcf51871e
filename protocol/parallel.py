"""Work on the segments of a frame, on several threads, in order, with few results waiting at any time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import cycle
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(function: Callable[[Item], Result], items: Sequence[Item], threads: int, most: int = 1) -> Iterator[Result]:
    """Yield function(item) for each item in order; at most one group more than threads are held back.

    Handing work over costs as much as a small item: a thread takes several items at a time, `most` at most.
    """
    if threads <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    group = max(1, min(most, len(items) // (2 * threads)))
    pool = _pool(threads)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(items), group):
            waiting.append(pool.submit(_all, function, items[start : start + group]))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _all(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that each keep to a core of their own.

    They wake each other whenever the interpreter's lock changes hands, and Linux likes to run a thread where it was
    woken: without this, two threads share one core for most of a frame and take as long as one.
    """
    cores = sorted(os.sched_getaffinity(0))
    next_core = cycle(cores[os.getpid() % len(cores) :] + cores[: os.getpid() % len(cores)])

    def settle() -> None:
        with suppress(OSError):  # a sandbox may forbid it, and cores may come and go
            os.sched_setaffinity(0, {next(next_core)})

    return ThreadPoolExecutor(threads, "codec", settle)
