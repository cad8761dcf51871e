import asyncio
import random
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.node.config import RoundConfig
from peermerge.node.deadline import ENOUGH, REMEMBERED, AdaptiveDeadline
from peermerge.node.gather import Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replica, Replicas
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.blob import Blob
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.messages import Header, PullRequest
from peermerge.protocol.parts import pull_messages

from .worlds import BASE, MANIFEST, follower, publish, publisher


def after(*arrivals: float) -> float:
    deadline = AdaptiveDeadline(2.0, 60.0, 6.0)
    for arrival in arrivals:
        deadline.observe(arrival)
    return deadline.seconds


def test_until_enough_is_known_the_deadline_is_the_ceiling() -> None:
    assert after(*[1.0] * (ENOUGH - 1)) == 60.0
    assert after(*[1.0] * ENOUGH) == 2.0


def test_it_is_the_median_and_so_many_deviations_between_two_bounds() -> None:
    assert after(8, 9, 10, 11, 12) == 20
    assert after(2, 6, 10, 14, 18) == 10 + 6 * 4
    assert after(*[0.1] * 9) == 2.0
    assert after(*[100.0] * 9) == 60.0
    assert after(-5, -5, -5, -5) == 2.0


def test_a_link_that_changed_is_learnt() -> None:
    assert after(*[1.0] * 500, *[20.0] * REMEMBERED) == 40.0


def test_median_and_spread_are_told() -> None:
    deadline = AdaptiveDeadline(2.0, 60.0, 6.0)
    assert (deadline.median_s, deadline.spread_s, deadline.usual_s) == (0, 0, 2.0)
    for arrival in (2, 6, 10, 14, 18):
        deadline.observe(arrival)
    assert (deadline.median_s, deadline.spread_s, deadline.usual_s) == (10, 4, 10)


@given(st.lists(st.floats(0, 1e6), max_size=100))
def test_what_is_usual_is_never_more_than_the_deadline(arrivals: list[float]) -> None:
    deadline = AdaptiveDeadline(2.0, 60.0, 6.0)
    for arrival in arrivals:
        deadline.observe(arrival)
    assert 0 <= deadline.usual_s <= deadline.seconds


@given(st.lists(st.floats(0, 1e6), max_size=100))
def test_it_never_leaves_its_bounds(arrivals: list[float]) -> None:
    assert 2.0 <= after(*arrivals) <= 60.0


def test_rule_15_late_arrivals_keep_the_deadline_from_ratcheting_down() -> None:
    """Seen only by those who came in time, the deadline tightens to them and never learns of a slower link."""

    def missed(arrivals: list[float], *, late_count: bool) -> float:
        deadline, late = AdaptiveDeadline(0.01, 60.0, 2.0), 0
        for arrival in arrivals:
            limit = deadline.seconds
            late += arrival > limit
            if late_count or arrival <= limit:
                deadline.observe(arrival)
        return late / len(arrivals)

    draw = random.Random(1)
    spread = [10 ** draw.uniform(0, 2) for _ in range(2000)]
    slowed = [1.0] * 100 + [5.0] * 1900
    assert missed(spread, late_count=True) < 0.35 < 0.5 < missed(spread, late_count=False)
    assert missed(slowed, late_count=True) < 0.05 < 0.9 < missed(slowed, late_count=False)


class SlowTransport:
    """Answers a pull from a log, after a delay of the peer's own."""

    def __init__(self, logs: dict[str, PublishedLog], delays: dict[str, float]) -> None:
        self.logs, self.delays = logs, delays

    async def pull(self, address: str, request: bytes, *, timeout_s: float, stall_s: float) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.delays[address])
        log = self.logs[address]
        for name in log.plan(PullRequest.decode(request).have):
            entry = log.read(name)
            for message in pull_messages(entry.envelope, entry.frame):
                yield message


def test_rule_15_a_round_ends_at_its_deadline_and_the_late_arrival_is_applied_and_counted() -> None:
    logs = {name: publisher(sender=name) for name in ("fast", "slow")}
    replicas: Replicas = follower()

    def apply(peer: str, header: Header, frame: Blob) -> Replica:
        return replicas.apply(peer, header, frame)

    async def rounds() -> None:
        clock = VirtualClock()
        transport = SlowTransport(logs, {"fast": 1.0, "slow": 9.0})
        me = Identity("net", "run", "me", 1, BASE, MANIFEST)
        settings = RoundConfig(floor_s=3.0, ceiling_s=5.0)
        held, scratch = replicas.point, MemoryStorage().scratch
        gather = Gather(me, transport, clock, Peers(), settings, held, apply, scratch)  # type: ignore[arg-type]
        for log in logs.values():
            publish(log, np.random.default_rng(0))
        await gather.gather({"fast": "fast", "slow": "slow"}, 0)
        assert clock.now() == pytest.approx(5.0)
        assert replicas.get("slow") is None
        assert list(gather.deadline._arrivals) == [1.0]
        await clock.sleep(10)
        assert replicas.get("slow") is not None
        assert list(gather.deadline._arrivals) == [1.0, 9.0]
        await gather.close()

    run_virtual(rounds())
