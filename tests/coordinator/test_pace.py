from __future__ import annotations

import asyncio

import pytest

from peermerge.coordinator import pace
from peermerge.coordinator.pace import BURST_S, CALLS_S, PATIENCE_S, Pace
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import PeerError, Refusal

BURST = int(BURST_S * CALLS_S)
WAITING = int(PATIENCE_S * CALLS_S)


def test_a_connection_in_a_loop_is_slowed_down_and_no_other_with_it() -> None:
    async def program() -> None:
        clock = VirtualClock()
        kept = Pace(clock)
        for _ in range(BURST):
            await kept.keep("loop")
        assert clock.now() == 0, "a burst is let through"
        for _ in range(300):
            await kept.keep("loop")
        assert clock.now() == pytest.approx(300 / CALLS_S)
        before = clock.now()
        await kept.keep("other")
        assert clock.now() == before
        await clock.sleep(BURST_S)
        before = clock.now()
        for _ in range(BURST - 1):
            await kept.keep("loop")
        assert clock.now() == before, "who was silent has its burst again"

    run_virtual(program())


def test_calls_that_would_wait_too_long_are_refused_and_count_for_nothing() -> None:
    async def program() -> None:
        clock = VirtualClock()
        kept = Pace(clock)
        calls = (kept.keep("flood") for _ in range(BURST + 2 * WAITING))
        refused = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error is not None]
        assert len(refused) == pytest.approx(WAITING, abs=1)
        assert {error.refusal for error in refused if isinstance(error, PeerError)} == {Refusal.RATE_LIMITED}
        assert clock.now() == pytest.approx(PATIENCE_S, abs=2 / CALLS_S)
        await kept.keep("flood")
        assert clock.now() == pytest.approx(PATIENCE_S, abs=3 / CALLS_S)

    run_virtual(program())


def test_connections_that_were_silent_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_KNOWN", 100)

    async def program() -> None:
        clock = VirtualClock()
        kept = Pace(clock)
        for number in range(1000):
            await kept.keep(f"connection {number}")
            await clock.sleep(BURST_S)
            assert len(kept._due) <= 100

    run_virtual(program())
