"""No peer holds up the others: rounds of nodes of which one hangs, is slow, late or gone, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from peermerge.node.events import EventList
from peermerge.node.participant import Participant
from peermerge.node.round import run_round
from peermerge.node.status import StatusService
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.members import MemberState

from .mesh import Mesh, opened, simulated

TRAIN_S = 1.0
"""What a round's training takes."""
LATER = 1.25
"""So much longer than without a fault rounds may take once they know of it."""
SETTINGS: Mapping[str, Any] = {
    "simulation__nodes": 8,
    "topology__name": "complete",
    "schedule__rounds": 0,
    "schedule__local_steps": 1,
    "round__evaluate_every": 0,
    "round__floor_s": 0.3,
    "round__ceiling_s": 20.0,
}


@dataclass
class Course:
    """What came of the nodes that nothing was done to, after the fault at the end of its round."""

    at: int
    ends: dict[str, list[float]] = field(default_factory=dict)
    """When each node's rounds ended."""
    deadlines: dict[str, list[float]] = field(default_factory=dict)
    """What the deadline was in each of them."""
    merged: dict[str, list[set[str]]] = field(default_factory=dict)

    def took(self, name: str) -> list[float]:
        """Return how long each round of a node took, the first one left out."""
        return [b - a for a, b in pairwise(self.ends[name])]

    @property
    def usual(self) -> float:
        """What a round takes before the fault."""
        return max(took for name in self.ends for took in self.took(name)[: self.at - 1])

    def slow(self, name: str) -> list[int]:
        """Return a node's rounds that took too long."""
        return [i + 1 for i, took in enumerate(self.took(name)) if took > LATER * self.usual]


def merges(node: Participant) -> list[set[str]]:
    assert isinstance(node.events, EventList)
    return [set(event["merged"]) for event in node.events.events if event["event"] == "round"]


def course(rounds: int, fault: Callable[[Mesh, dict[str, float]], Awaitable[None]], at: int = 6, **over: Any) -> Course:
    """Let all nodes run freely; after round `at` something happens to the last, which may also cost it more."""

    async def program() -> Course:
        found, cost = Course(at), {}
        async with opened(simulated(**{**SETTINGS, **over})) as mesh:
            cost.update(dict.fromkeys(mesh.names, TRAIN_S))

            async def go(node: Participant) -> None:
                ends, deadlines = found.ends.setdefault(node.name, []), found.deadlines.setdefault(node.name, [])
                while node.round < rounds:
                    deadlines.append(node.gather.deadline.seconds)
                    await run_round(node, cost[node.name])
                    ends.append(node.clock.now())

            async def strike() -> None:
                while mesh.nodes[0].round <= at:
                    await asyncio.sleep(TRAIN_S / 100)
                await fault(mesh, cost)

            *well, ill = [asyncio.create_task(go(node)) for node in mesh.nodes]
            striking = asyncio.create_task(strike())
            await asyncio.gather(*well, striking)
            ill.cancel()
            with suppress(asyncio.CancelledError):
                await ill
            found.merged = {node.name: merges(node) for node in mesh.nodes}
            name = mesh.nodes[-1].name
            del found.ends[name], found.deadlines[name]
        return found

    return run_virtual(program())


async def hang(mesh: Mesh, cost: dict[str, float]) -> None:
    mesh.network.cut(mesh.names[-1:], mesh.names[:-1])


async def slow_down(mesh: Mesh, cost: dict[str, float]) -> None:
    cost[mesh.names[-1]] *= 10


def slow_line(frames_s: float) -> Callable[[Mesh, dict[str, float]], Awaitable[None]]:
    """Let a frame of the last node be under way for so long."""

    async def happen(mesh: Mesh, cost: dict[str, float]) -> None:
        *others, ill = mesh.nodes
        for other in others:
            frame = other.peers[ill.name].bytes_in / other.round
            mesh.network.set_link(ill.name, other.name, rate_bytes_s=frame / (frames_s * TRAIN_S), one_way=True)

    return happen


@pytest.mark.parametrize("fault", [hang, slow_down, slow_line(10)], ids=["hung", "slow", "slow line"])
def test_one_of_eight_costs_the_others_one_deadline_and_nothing_later(fault: Any) -> None:
    seen = course(22, fault)
    for name in seen.ends:
        took, slow = seen.took(name), seen.slow(name)
        assert len(slow) == 1, f"{name}: {slow}"
        assert slow[0] in (seen.at + 1, seen.at + 2)
        assert took[slow[0] - 1] <= seen.usual + seen.deadlines[name][slow[0]] + 0.1
        assert seen.merged[name][-1] == seen.ends.keys() - {name}, "the others go on with each other"
    print(f"usual {seen.usual:.3f} s, then {[round(t / seen.usual, 2) for t in seen.took('n0000')[seen.at - 1 :]]}")


SMALLER = {"simulation__nodes": 4}
LONG = 60


@pytest.mark.parametrize("frames_s", [0.7, 2.5])
def test_who_is_late_in_every_round_is_waited_for_ever_less(frames_s: float) -> None:
    seen = course(LONG, slow_line(frames_s), **SMALLER)
    for name in seen.ends:
        slow = seen.slow(name)
        waits = [b - a for a, b in pairwise([*slow, LONG])]
        half = [round_ < LONG / 2 for round_ in slow]
        assert sum(half) > 1
        assert len(slow) - sum(half) < sum(half), f"rounds between two that waited in vain: {waits}"
        assert max(waits) >= 16


@pytest.mark.parametrize("rounds", [0.6, 1.4, 3.5])
def test_who_stood_still_for_some_rounds_is_merged_again_by_all(rounds: float) -> None:
    async def stand_still(mesh: Mesh, cost: dict[str, float]) -> None:
        name = mesh.names[-1]
        cost[name] += rounds * TRAIN_S
        await asyncio.sleep(1.5 * TRAIN_S)  # its next round has begun by then
        cost[name] = TRAIN_S

    seen = course(40, stand_still, **SMALLER)
    for name in seen.ends:
        assert seen.slow(name)[-1] < 30, "nobody is waited for in vain for ever"
        assert any("n0003" not in merged for merged in seen.merged[name]), "it was missed"
        assert all("n0003" in merged for merged in seen.merged[name][-10:]), "it is one of them again"


def test_who_is_slower_than_all_others_goes_on_merging_them_and_is_paid() -> None:
    async def slow_down_somewhat(mesh: Mesh, cost: dict[str, float]) -> None:
        cost[mesh.names[-1]] *= 3

    seen = course(LONG, slow_down_somewhat, **SMALLER)
    ill = seen.merged["n0003"]
    assert all("n0003" not in merged for name in seen.ends for merged in seen.merged[name][-10:]), "nobody waits"
    assert len(ill) > 20
    assert sum(merged == seen.ends.keys() for merged in ill[-10:]) >= 8


def test_nobody_waits_for_a_member_that_is_dropped_meanwhile() -> None:
    async def program() -> None:
        async with opened(simulated(**{**SETTINGS, **SMALLER, "round__floor_s": 10.0})) as mesh:
            one, ill = mesh.nodes[0], mesh.nodes[-1]
            await mesh.round(3)
            started = one.clock.now()
            rounds = [asyncio.create_task(run_round(node, TRAIN_S)) for node in mesh.nodes[:-1]]
            await asyncio.sleep(2 * TRAIN_S)
            assert one.progress.phase == "gathering"
            for node in mesh.nodes[:-1]:
                node.membership.judge(ill.name, MemberState.DEAD)
            await asyncio.gather(*rounds)
            assert one.clock.now() - started == pytest.approx(2 * TRAIN_S), "its pull ends with it"
            assert merges(one)[-1] == {node.name for node in mesh.nodes[1:-1]}
            assert not one.gather._pulls

    run_virtual(program())


class Away:
    """A broker that cannot be reached."""

    state = "unreachable"

    async def run(self) -> None:
        """Not asked."""

    async def leave(self) -> None:
        """Not asked."""


def test_status_says_for_whom_rounds_do_not_wait() -> None:
    async def program() -> None:
        async with opened(simulated(**{**SETTINGS, **SMALLER, "round__ceiling_s": 2.0})) as mesh:
            await mesh.round(2)
            *well, ill = mesh.nodes
            mesh.network.kill(ill.name)
            for _ in range(3):
                await asyncio.gather(*(run_round(node, TRAIN_S) for node in well))
            well[0].sources["broker"] = Away()
            well[0].telemetry_dropped = lambda: 3
            reply = StatusService(well[0]).reply()
            peers = {peer.name: peer for peer in reply.peers}
            assert {name: peer.waited_for for name, peer in peers.items()} == {
                "n0001": True,
                "n0002": True,
                "n0003": False,
            }
            assert peers[ill.name].failures == 3
            assert 0 < peers[ill.name].retry_s < 1
            assert peers["n0001"].failures == 0
            assert 0 < reply.arrival_median_s < reply.deadline_s
            assert reply.arrival_spread_s >= 0
            assert (reply.coordinator, reply.broker, reply.telemetry_dropped) == ("", "unreachable", 3)

    run_virtual(program())
