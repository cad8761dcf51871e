"""Two nodes send each other thousands of frames over links that double and reset, and are killed and started again.

The real log, service, gather and replicas of each; both keep their log and their replica of the other on a disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from peermerge.node.budget import Budget
from peermerge.node.config import RoundConfig
from peermerge.node.events import EventList
from peermerge.node.gather import Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replica, Replicas
from peermerge.node.service import PeerService
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.blob import Blob
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.limits import CHUNK_BYTES
from peermerge.protocol.members import Member
from peermerge.protocol.memory_transport import MemoryNetwork
from peermerge.protocol.messages import Header, Point
from tests.node.worlds import BASE, MANIFEST, equal, follower, publish, publisher

pytestmark = pytest.mark.faults
NAMES = ("alice", "bob")
ATTEMPTS = 40
PORTIONS = {"alice": 64, "bob": CHUNK_BYTES}
"""Bytes of a frame in one message: alice's break in the midst of one, bob's arrive twice as a whole."""


class Side:
    """One node's log and replica of the other. What lies on its disk outlives a restart; the rest begins anew."""

    def __init__(self, name: str, network: MemoryNetwork, folder: Path, seed: int) -> None:
        self.name = name
        self.other = NAMES[1 - NAMES.index(name)]
        self.ledger: list[tuple[int, int, int]] = []
        """Epoch, from which version and to which, of every frame that was applied to the replica, over all restarts."""
        self.calls = 0
        self.events = EventList(name)
        self._network = network
        self._folder = folder / name
        self._rng = np.random.default_rng(seed)
        self._storage = MemoryStorage()
        self._incarnation = 0

    async def start(self) -> None:
        """Open the door as a new process does."""
        self._network.revive(self.name)
        self._incarnation += 1
        clock, peers = VirtualClock(), Peers()
        me = Identity("net", "run", self.name, self._incarnation, BASE, MANIFEST)
        self.log: PublishedLog = publisher(self._storage, sender=self.name)
        self.replicas: Replicas = follower(self._folder)
        self._transport = self._network.transport(self.name)
        self._gather = Gather(
            me,
            self._transport,
            clock,
            peers,
            RoundConfig(),
            self.replicas.point,
            self._apply,
            self._storage.scratch,
            events=self.events,
        )
        budget = Budget(clock)
        budget.portion = PORTIONS[self.name]
        self._service = PeerService(me, self.log, Roster(Member(self.name, self.name)), peers, self._held, budget)
        await self._service.announce(self.log.last_round)
        await self._transport.serve(self._service)

    def _held(self, peer: str) -> Point:
        return self.replicas.point(peer)

    def _apply(self, peer: str, header: Header, frame: Blob) -> Replica:
        self.calls += 1
        replica = self.replicas.apply(peer, header, frame)
        self.ledger.append((header.epoch, header.from_version, header.version))
        return replica

    def publish(self) -> None:
        """Publish one more version."""
        publish(self.log, self._rng)

    async def pull(self, publisher: Side) -> int:
        """Pull until all is there that the other side has published; return how many attempts failed."""
        for failed in range(ATTEMPTS):
            await self._gather.pull(self.other, self.other, -1)
            if self.replicas.point(self.other) == publisher.log.point:
                return failed
        raise AssertionError(f"{self.name} has not caught up after {ATTEMPTS} attempts")

    async def kill(self) -> None:
        """Break everything off at once; the other side notices by itself."""
        self._network.kill(self.name)
        await self._gather.close()
        await self._transport.close()


async def exchange(folder: Path, sends: int, seed: int) -> Counter[str]:
    """Let both publish, pull and retry, and be killed in the midst of pulls; return what was seen."""
    network = MemoryNetwork(latency_s=0.01, seed=seed)
    network.set_link(*NAMES, duplicates=0.05, resets=0.02)
    rng = np.random.default_rng(seed)
    sides = {name: Side(name, network, folder, seed + i) for i, name in enumerate(NAMES)}
    seen: Counter[str] = Counter()
    for side in sides.values():
        await side.start()
    while seen["sends"] < sends:
        for side in sides.values():
            side.publish()
        seen["sends"] += len(sides)
        pulls = [asyncio.create_task(side.pull(sides[side.other])) for side in sides.values()]
        if rng.random() < 0.05:
            victim = sides[NAMES[rng.integers(2)]]
            await asyncio.sleep(float(rng.uniform(0, 0.03)))
            await victim.kill()
            await victim.start()
            seen["restarts"] += 1
        seen["retries"] += sum(await asyncio.gather(*pulls))
    network.set_link(*NAMES, duplicates=0.0, resets=0.0)
    for side in sides.values():
        await side.pull(sides[side.other])
        check(side, sides[side.other])
        seen["refused"] += side.calls - len(side.ledger)
        seen["snapshots"] += sum(not from_version for _, from_version, _ in side.ledger)
        seen["applied"] += len(side.ledger)
        await side.kill()
    return seen + network.faults


def check(side: Side, publisher: Side) -> None:
    """No frame was applied twice, none was left out, and the replica is what its publisher published."""
    held = 0
    for epoch, from_version, version in side.ledger:
        assert epoch == 1
        assert from_version in (held, 0)
        assert version > held
        held = version
    replica = side.replicas.get(publisher.name)
    assert replica is not None
    assert (replica.point.epoch, replica.point.version, replica.point.chain) == (
        publisher.log.epoch,
        publisher.log.version,
        publisher.log.point.chain,
    )
    assert equal(replica.state, publisher.log.state)
    for pull in (event for event in side.events.events if event["event"] == "pull"):
        assert 0 <= pull["arrived"] - pull["applied"] <= bool(pull["reason"])


@pytest.mark.parametrize(
    "sends", [pytest.param(600, id="quick"), pytest.param(10_000, id="full", marks=pytest.mark.slow)]
)
def test_no_frame_is_applied_twice_and_none_is_lost(tmp_path: Path, sends: int) -> None:
    seen = run_virtual(exchange(tmp_path, sends, seed=sends))
    assert seen["applied"] == seen["sends"] + seen["snapshots"] - len(NAMES), "only what a kill cost came again, whole"
    assert seen["doubled"] > 0.05 * sends
    assert seen["reset"] > 0.02 * sends
    assert min(seen["restarts"], seen["retries"], seen["refused"]) > 0.005 * sends, seen
