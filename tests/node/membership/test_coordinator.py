"""A member's connection to real coordinators and to lying ones, over real gRPC on the loopback interface."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from peermerge.coordinator.server import ROSTER, SERVICE
from peermerge.node.backoff import CAP_S
from peermerge.node.gather import Identity
from peermerge.node.membership import Roster
from peermerge.node.membership.coordinator import DOUBTS, INTRODUCTIONS, CoordinatorClient
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.clock import RealClock
from peermerge.protocol.errors import ConfigError, EnvelopeError, PeerError, Refusal
from peermerge.protocol.limits import MAX_INCARNATION, MAX_MEMBERS, MAX_REFUTED, MAX_VIEW_EPOCH
from peermerge.protocol.manifest import Manifest
from peermerge.protocol.members import Member, MemberState
from peermerge.protocol.rpc import handlers
from tests.coordinator.worlds import KEY, calling, claim, coordinator, eventually, names, process
from tests.integration.daemons import free_ports


class Node:
    """A roster with a client, and what the client doubts."""

    def __init__(self, name: str, address: str, port: int = 1) -> None:
        me = Identity(*KEY, name, 1, b"", Manifest(()))
        self.roster = Roster(claim(name, port))
        self.doubts: list[str] = []
        self.round = 0
        self.client = CoordinatorClient(
            me, self.roster, address, RealClock(), self.doubts.append, lambda: self.round, Random(name)
        )

    def knows(self, *others: str) -> Callable[[], bool]:
        """Return a question: whether it knows these and nobody else."""
        return lambda: set(self.roster.view().names) == {self.roster.me.name, *others}


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Run the clients; whatever one of them dies of fails the test."""
    tasks = [asyncio.create_task(each.client.run()) for each in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * len(nodes)


async def connected(*nodes: Node) -> None:
    await eventually(lambda: all(each.client.state == "connected" for each in nodes), "all are connected")


async def unreachable(*nodes: Node) -> None:
    await eventually(lambda: all(each.client.state == "unreachable" for each in nodes), "all notice that it is away")


# ---- Coordinators that mean well. ----


async def test_members_are_introduced_to_each_other(tmp_path: Path) -> None:
    async with coordinator(tmp_path, {"topology.name": '"ring"'}) as there:
        alice, bob = Node("alice", there.address), Node("bob", there.address, 2)
        bob.round = 7
        async with running(alice, bob):
            await eventually(alice.knows("bob"), "alice knows bob")
            await eventually(bob.knows("alice"), "bob knows alice")
            await connected(alice, bob)
            assert alice.roster.view().address("bob") == "127.0.0.1:2"
            assert alice.client.suggestions == {"topology.name": '"ring"'}
            async with calling(there.address) as caller:
                await eventually(lambda: _round_of(caller, "bob", 7), "the round is told")
        assert not alice.doubts + bob.doubts


async def test_nothing_is_raised_while_it_is_away_and_it_is_found_when_it_comes(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    alice = Node("alice", address)
    async with running(alice):
        await eventually(lambda: "TRANSPORT" in alice.client.trouble, "it was tried")
        assert alice.client.state == "unreachable"
        async with coordinator(tmp_path, listen=address):
            await connected(alice)
            assert not alice.client.trouble


async def test_once_it_was_tried_its_introductions_are_there_or_there_are_none(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as there, calling(there.address) as caller:
        await caller.join(claim("bob", 2))
        alice = Node("alice", there.address)
        async with running(alice):
            await alice.client.tried.wait()
            assert alice.knows("bob")()
        address = there.address
    carol = Node("carol", address, 3)
    async with running(carol):
        await carol.client.tried.wait()
        assert carol.client.trouble


@pytest.mark.parametrize("lost", [False, True])
async def test_after_a_restart_members_come_back_and_are_introduced_whatever_became_of_the_file(
    tmp_path: Path, lost: bool
) -> None:
    async with coordinator(tmp_path, heartbeat_s=0.2) as there:
        address = there.address
        alice, bob = Node("alice", address), Node("bob", address, 2)
        async with running(alice, bob):
            await eventually(alice.knows("bob"), "alice knows bob")
    held = alice.client._epoch
    if lost:
        for path in tmp_path.glob(f"{ROSTER}*"):
            path.unlink()
    carol = Node("carol", address, 3)
    async with running(alice, bob):
        await eventually(lambda: alice.client.trouble, "it is missed")
        assert alice.knows("bob")(), "who is known stays"
        async with coordinator(tmp_path, heartbeat_s=0.2, listen=address) as there, running(carol):
            for each, others in ((alice, ("bob", "carol")), (bob, ("alice", "carol")), (carol, ("alice", "bob"))):
                await eventually(each.knows(*others), "all know all")
            assert there._roster.find(KEY).epoch > held
            await eventually(lambda: alice.client._epoch == there._roster.find(KEY).epoch, "its views are taken")


async def test_who_leaves_or_falls_silent_is_doubted_and_not_removed(tmp_path: Path) -> None:
    async with coordinator(tmp_path, heartbeat_s=0.2) as there:
        alice, bob, carol = (Node(name, there.address, i + 1) for i, name in enumerate(("alice", "bob", "carol")))
        async with running(alice), calling(there.address) as caller:
            async with running(bob, carol):
                await eventually(alice.knows("bob", "carol"), "alice knows both")
            await bob.client.leave()
            for name in ("bob", "carol"):
                await eventually(lambda name=name: name in alice.doubts, f"alice doubts {name}")

            async def alone() -> bool:
                return set(names((await caller.beat(claim("alice"))).view)) == {"alice"}

            await eventually(alone, "the coordinator sends nobody to them")
            assert alice.knows("bob", "carol")()


async def test_leaving_is_quick_and_silent_when_nobody_is_there() -> None:
    alice = Node("alice", f"127.0.0.1:{free_ports(1)[0]}")
    await alice.client.leave()
    alice.client._epoch = 5  # as if it had been there
    async with asyncio.timeout(5):
        await alice.client.leave()


async def test_a_name_in_use_is_told(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as there:
        alice, double = Node("alice", there.address), Node("alice", there.address, 9)
        async with running(alice):
            await connected(alice)
            async with running(double):
                await eventually(lambda: "DUPLICATE_ID" in double.client.trouble, "the second is refused")
                assert double.client.state == "unreachable"


@pytest.mark.parametrize("address", ["nowhere", "host:0"])
def test_an_address_that_is_none_is_the_users_mistake(address: str) -> None:
    with pytest.raises(ConfigError):
        Node("alice", address)


@pytest.mark.faults
async def test_a_coordinator_process_that_is_killed_or_stopped_is_missed_and_found_again(tmp_path: Path) -> None:
    async with process(tmp_path, "--heartbeat-s", "0.3") as there:
        alice, bob = Node("alice", there.address), Node("bob", there.address, 2)
        async with running(alice, bob):
            await eventually(alice.knows("bob"), "alice knows bob")
            there.signal(signal.SIGSTOP)
            await unreachable(alice, bob)
            there.signal(signal.SIGCONT)
            await connected(alice, bob)
            there.kill()
            await unreachable(alice, bob)
            await there.start().ready()
            await connected(alice, bob)
            assert alice.knows("bob")()
            async with calling(there.address) as caller:
                both = {"alice": "ALIVE", "bob": "ALIVE"}
                assert names((await caller.beat(claim("alice"))).view) == both


# ---- Coordinators that do not. ----


class Liar:
    """Tells one view after the other, the last one for ever."""

    def __init__(self, *views: wire.MeshView, heartbeat_s: float = 0.2) -> None:
        self.views = list(views)
        self.heartbeat_s = heartbeat_s
        self.calls = 0

    def next(self) -> wire.MeshView:
        self.calls += 1
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    async def join(self, _request: wire.JoinRequest, _context: Any) -> wire.JoinReply:
        return wire.JoinReply(view=self.next(), heartbeat_s=self.heartbeat_s)

    async def heartbeat(self, _request: wire.HeartbeatRequest, _context: Any) -> wire.HeartbeatReply:
        return wire.HeartbeatReply(view=self.next(), heartbeat_s=self.heartbeat_s)

    async def watch(self, _request: wire.WatchRequest, _context: Any) -> AsyncIterator[wire.MeshView]:
        raise PeerError(Refusal.RATE_LIMITED)
        yield

    async def leave(self, _request: wire.LeaveRequest, _context: Any) -> wire.LeaveReply:
        raise EnvelopeError(Refusal.UNKNOWN_SENDER)

    async def overview(self, _request: wire.OverviewRequest, _context: Any) -> wire.OverviewReply:
        return wire.OverviewReply()


class Silent(Liar):
    """Takes calls and answers none."""

    async def join(self, _request: wire.JoinRequest, _context: Any) -> wire.JoinReply:
        self.calls += 1
        await asyncio.Event().wait()
        raise AssertionError


@asynccontextmanager
async def serving(implementation: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(SERVICE, implementation),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def view(epoch: int, *members: Member) -> wire.MeshView:
    return wire.MeshView(epoch=epoch, members=[member.message() for member in members])


def crowd(count: int, prefix: str = "x") -> list[Member]:
    return [Member(f"{prefix}{i}", "h:1") for i in range(count)]


async def lied_to(liar: Liar, calls: int, known: list[Member]) -> Node:
    """Return a node that knew some members, after so many answers of a liar."""
    async with serving(liar) as address:
        alice = Node("alice", address)
        alice.roster.learn(known, first_hand=True)
        async with running(alice):
            await eventually(lambda: liar.calls >= calls, "it was lied to")
    return alice


async def test_what_is_claimed_about_known_members_and_ourselves_changes_nothing() -> None:
    bob, carol = claim("bob", 2), claim("carol", 3)
    forged = [
        Member("alice", "evil:1", MAX_INCARNATION, MAX_REFUTED, MemberState.DEAD),
        Member("bob", "evil:1", MAX_INCARNATION, MAX_REFUTED),
        replace(carol, state=MemberState.LEFT),
    ]
    alice = await lied_to(Liar(view(1, *forged)), 3, [bob, carol])
    assert alice.roster.everybody() == (claim("alice"), bob, carol)


async def test_strangers_who_are_said_to_be_dead_are_not_introduced_and_suspects_come_as_alive() -> None:
    strangers = [replace(claim(state.name.lower()), state=state) for state in MemberState]
    alice = await lied_to(Liar(view(1, *strangers)), 2, [])
    assert alice.roster.view().names == ("alice", "alive", "suspect")
    assert {member.state for member in alice.roster.view().members} == {MemberState.ALIVE}


async def test_a_list_beyond_all_limits_is_refused_whole() -> None:
    alice = await lied_to(Liar(view(1, *crowd(MAX_MEMBERS + 1))), 2, [])
    assert alice.roster.view().names == ("alice",)
    assert "OVERSIZE" in alice.client.trouble


async def test_invented_members_are_bounded_however_many_there_are() -> None:
    alice = await lied_to(Liar(*(view(i + 1, *crowd(2000, f"x{i}-")) for i in range(5))), 6, [claim("bob", 2)])
    assert INTRODUCTIONS <= len(alice.roster.view().members) - 2 < 1.2 * INTRODUCTIONS
    alice.roster.learn([claim("carol", 3)], first_hand=True)
    assert "carol" in alice.roster.view()


async def test_a_list_that_flaps_costs_few_questions_a_view() -> None:
    known = crowd(200)
    flapping = [view(i + 1, *known) if i % 2 == 0 else view(i + 1, claim("alice")) for i in range(4)]
    alice = await lied_to(Liar(*flapping), 5, known)
    assert len(alice.doubts) == 2 * DOUBTS
    assert len(alice.roster.view().members) == 201


async def test_views_older_than_the_newest_are_ignored() -> None:
    bob, carol, dave = claim("bob", 2), claim("carol", 3), claim("dave", 4)
    alice = await lied_to(Liar(view(7, bob), view(6, carol), view(7, bob, dave)), 5, [])
    assert alice.roster.view().names == ("alice", "bob", "dave")
    assert not alice.doubts


async def test_an_epoch_without_measure_does_not_outlive_the_liar(tmp_path: Path) -> None:
    liar = Liar(view(2**64 - 1, claim("bob", 2)))
    async with serving(liar) as address:
        alice = Node("alice", address)
        async with running(alice):
            await eventually(lambda: liar.calls >= 2, "it was lied to")
    assert alice.client._epoch == MAX_VIEW_EPOCH
    async with coordinator(tmp_path, listen=address) as there, calling(there.address) as caller:
        await caller.join(claim("carol", 3))
        async with running(alice):
            await eventually(lambda: "carol" in alice.roster.view(), "the honest one is believed")


@pytest.mark.parametrize(
    ("told", "trouble"),
    [
        (Liar(view(1), heartbeat_s=float("nan")), "NON_FINITE"),
        (Liar(view(1), heartbeat_s=-1.0), "NON_FINITE"),
        (Liar(wire.MeshView(epoch=1, members=[wire.Member(name="No Name")])), "BAD_HEADER"),
        (Silent(view(1)), "DEADLINE"),
    ],
)
async def test_nonsense_and_silence_are_troubles_and_no_more(told: Liar, trouble: str) -> None:
    async with serving(told) as address:
        alice = Node("alice", address)
        async with running(alice):
            await eventually(lambda: trouble in alice.client.trouble, "it is noticed")
            calls = told.calls
            await eventually(lambda: told.calls > calls, f"it is tried again within {CAP_S} s")
        assert alice.roster.everybody() == (claim("alice"),)


@pytest.mark.parametrize(("says", "taken"), [(0.0, 0.2), (1e300, 60.0)])
async def test_how_often_we_come_back_is_bounded(says: float, taken: float) -> None:
    async with serving(Liar(view(1), heartbeat_s=says)) as address:
        alice = Node("alice", address)
        async with running(alice):
            await connected(alice)
    assert alice.client._heartbeat_s == taken


async def _round_of(caller: Any, name: str, round_: int) -> bool:
    overview = await caller.overview()
    return any(m.member.name == name and m.round == round_ for mesh in overview.meshes for m in mesh.members)
