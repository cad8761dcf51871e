"""What runs beside the rounds, and how all of it ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from peermerge.node.supervise import Background, stop_on_signals, until_stop

STEPS = 100


async def forever() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise RuntimeError("the hook")


async def ticks(done: list[int]) -> str:
    for i in range(STEPS):
        await asyncio.sleep(0)
        done.append(i)
    return "ended"


def test_work_that_ends_returns_what_it_found() -> None:
    assert asyncio.run(until_stop(ticks([]), asyncio.Event())) == "ended"


@pytest.mark.parametrize(("grace_s", "result"), [(0.0, None), (60.0, "ended")])
def test_a_stop_ends_the_work_unless_it_is_given_time(grace_s: float, result: str | None) -> None:
    done: list[int] = []

    async def main() -> str | None:
        stop = asyncio.Event()
        stop.set()
        return await until_stop(ticks(done), stop, grace_s=lambda: grace_s)

    assert asyncio.run(main()) == result
    assert (len(done) == STEPS) == (result == "ended")


def test_time_to_end_is_asked_for_only_at_a_stop() -> None:
    asked = []

    def grace_s() -> float:
        asked.append(True)
        return 1.0

    asyncio.run(until_stop(ticks([]), asyncio.Event(), grace_s=grace_s))
    assert not asked


def test_a_background_task_that_dies_ends_the_work() -> None:
    async def main() -> None:
        background = Background()
        background.start("lives", forever())
        background.start("dies", fails())
        try:
            await until_stop(forever(), asyncio.Event(), background)
        finally:
            await background.end()

    with pytest.raises(RuntimeError, match="the hook"):
        asyncio.run(main())


def test_what_a_background_task_died_of_is_raised_by_a_check() -> None:
    async def main() -> None:
        background = Background()
        background.start("lives", forever())
        background.check()
        background.start("dies", fails())
        await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(RuntimeError, match="the hook"):
            background.check()
        await background.end()
        assert all(task.done() for task in background)

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops(number: signal.Signals) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 10)

    asyncio.run(main())
