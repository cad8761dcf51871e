"""Who is slow itself gives others more time."""

from __future__ import annotations

from peermerge.node.membership.health import MAX_HEALTH, Health
from peermerge.protocol.clock import VirtualClock, run_virtual


def test_each_sign_of_being_slow_lengthens_a_period_and_each_answer_shortens_it() -> None:
    health = Health(VirtualClock(), 2.0)
    health.improve()
    assert health.patience == 2.0
    health.worsen()
    health.worsen()
    assert health.patience == 6.0
    health.improve()
    assert health.patience == 4.0


def test_there_is_a_longest_period() -> None:
    health = Health(VirtualClock(), 1.0)
    for _ in range(100):
        health.worsen()
    assert health.patience == 1 + MAX_HEALTH


def test_what_took_half_a_period_longer_than_it_may_was_slept_through() -> None:
    async def program() -> list[bool]:
        clock = VirtualClock()
        health, started, seen = Health(clock, 2.0), clock.now(), []
        for _ in range(3):
            await clock.sleep(2.5)
            seen.append(health.overslept(started, 4.5))
        return seen

    assert run_virtual(program()) == [False, False, True]
