"""Virtual and real time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol.clock import RealClock, VirtualClock, run_virtual


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), max_size=20))
def test_tasks_wake_in_the_order_of_their_times(delays: list[float]) -> None:
    async def program() -> list[tuple[float, float]]:
        clock, seen = VirtualClock(), []

        async def sleeper(delay: float) -> None:
            await clock.sleep(delay)
            seen.append((delay, clock.now()))

        await asyncio.gather(*map(sleeper, delays))
        return seen

    seen = run_virtual(program())
    assert [now for _, now in seen] == pytest.approx([delay for delay, _ in seen], rel=1e-12, abs=2e-7)
    assert sorted(now for _, now in seen) == [now for _, now in seen]


def test_a_virtual_year_passes_at_once() -> None:
    async def program() -> float:
        clock = VirtualClock()
        await clock.sleep(365 * 86400)
        return clock.now()

    start = time.monotonic()
    assert run_virtual(program()) == 365 * 86400
    assert time.monotonic() - start < 5


def test_virtual_time_starts_at_zero_and_stands_still_while_work_is_left() -> None:
    async def program() -> tuple[float, float]:
        clock = VirtualClock()
        begin = clock.now()
        for _ in range(1000):
            await clock.sleep(0)
        return begin, clock.now()

    assert run_virtual(program()) == (0.0, 0.0)


def test_timeouts_fire_in_virtual_time() -> None:
    async def program() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return VirtualClock().now()

    assert run_virtual(program()) == 3600


def test_a_virtual_program_that_waits_for_nothing_is_told_so() -> None:
    async def program() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stuck"):
        run_virtual(program())


def test_an_exception_of_the_program_comes_out() -> None:
    async def program() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(program())


def test_virtual_work_runs_at_once_costs_what_it_declares_and_never_overlaps() -> None:
    async def program() -> list[tuple[str, float, float]]:
        clock, seen = VirtualClock(), []

        async def worker(name: str) -> None:
            began = await clock.work(clock.now, 2.0)
            seen.append((name, began, clock.now()))

        await asyncio.gather(worker("a"), worker("b"))
        await clock.work(lambda: None)
        clock.close()
        return seen

    assert run_virtual(program()) == [("a", 0.0, 2.0), ("b", 2.0, 4.0)]


def test_two_virtual_clocks_are_two_workers() -> None:
    async def program() -> float:
        await asyncio.gather(*[VirtualClock().work(lambda: None, 2.0) for _ in range(5)])
        return VirtualClock().now()

    assert run_virtual(program()) == 2.0


def test_virtual_work_that_fails_costs_nothing_and_frees_the_worker() -> None:
    async def program() -> float:
        clock = VirtualClock()
        with pytest.raises(ZeroDivisionError):
            await clock.work(lambda: 1 / 0, 5.0)
        await clock.work(lambda: None, 1.0)
        return clock.now()

    assert run_virtual(program()) == 1.0


async def test_real_work_runs_in_one_other_thread_one_job_at_a_time() -> None:
    clock = RealClock()
    running, most, threads = 0, 0, set()

    def job() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.get_ident())
        running -= 1
        return running

    results = await asyncio.gather(*[clock.work(job, cost_s=1000.0) for _ in range(50)])
    clock.close()
    assert results == [0] * 50
    assert most == len(threads) == 1
    assert threading.get_ident() not in threads


async def test_real_time_moves_on_while_we_sleep() -> None:
    clock = RealClock()
    start = clock.now()
    await clock.sleep(0.01)
    assert clock.now() - start >= 0.009
    clock.close()


def test_what_goes_to_a_thread_runs_at_once_in_virtual_time() -> None:
    async def program() -> tuple[float, int]:
        result = await asyncio.to_thread(sum, (1, 2))
        with pytest.raises(ValueError, match="three"):
            await asyncio.to_thread(int, "three")
        return asyncio.get_running_loop().time(), result

    assert run_virtual(program()) == (0.0, 3)
