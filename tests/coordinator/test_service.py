"""The service over real gRPC on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from peermerge.coordinator import pace, server
from peermerge.coordinator.server import SERVICE, Coordinator
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.addresses import parse_address
from peermerge.protocol.errors import ConfigError, DataDirError, PeerError, Refusal
from peermerge.protocol.limits import MAX_STREAMS_PER_PEER
from peermerge.protocol.members import Member
from peermerge.protocol.remote import channel
from peermerge.protocol.rpc import Stub

from .worlds import CALL_S, Caller, calling, claim, coordinator, eventually, names

ALICE, BOB = claim("alice"), claim("bob", 2)
SUGGESTIONS = {"topology.name": '"ring"'}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with coordinator(tmp_path, SUGGESTIONS) as made:
        yield made


@pytest.fixture
async def caller(running: Coordinator) -> AsyncIterator[Caller]:
    async with calling(running.address) as made:
        yield made


async def refusal(call: Any) -> Refusal:
    """Return why a call is refused."""
    with pytest.raises(PeerError) as raised:
        await call
    return raised.value.refusal


async def test_a_newcomer_is_told_who_is_there_how_often_to_come_back_and_what_is_suggested(caller: Caller) -> None:
    await caller.join(ALICE)
    reply = await caller.join(BOB)
    assert names(reply.view) == {"alice": "ALIVE", "bob": "ALIVE"}
    assert reply.heartbeat_s == 2.0
    assert dict(reply.suggestions) == SUGGESTIONS


async def test_a_heartbeat_brings_the_view_to_who_does_not_hold_it(caller: Caller) -> None:
    held = (await caller.join(ALICE)).view.epoch
    reply = await caller.beat(ALICE, held)
    assert reply.view == wire.MeshView(epoch=held)
    await caller.join(BOB)
    reply = await caller.beat(ALICE, held)
    assert reply.view.epoch > held
    assert names(reply.view) == {"alice": "ALIVE", "bob": "ALIVE"}


async def test_a_heartbeat_of_somebody_unknown_is_as_good_as_joining(caller: Caller) -> None:
    reply = await caller.beat(ALICE, epoch=100, round_=7)
    assert reply.view.epoch > 100
    overview = await caller.overview()
    assert [(m.member.name, m.round) for m in overview.meshes[0].members] == [("alice", 7)]


async def test_who_watches_sees_the_view_now_and_every_change_until_it_leaves(caller: Caller) -> None:
    await caller.join(ALICE)
    async with aclosing(caller.watch()) as views:
        first = await anext(views)
        assert names(first) == {"alice": "ALIVE"}
        await caller.join(BOB)
        second = await anext(views)
        assert names(second) == {"alice": "ALIVE", "bob": "ALIVE"}
        await caller.leave(BOB)
        third = await anext(views)
        assert names(third) == {"alice": "ALIVE", "bob": "LEFT"}
    assert first.epoch < second.epoch < third.epoch


async def test_many_changes_reach_a_watcher_as_few_views(caller: Caller) -> None:
    await caller.join(ALICE)
    async with aclosing(caller.watch()) as views:
        seen = [await anext(views)]
        for i in range(40):
            await caller.join(claim(f"n{i}"))
        while len(seen[-1].members) < 41:
            seen.append(await anext(views))
    assert len(seen) < 20


async def test_who_stops_watching_is_forgotten(running: Coordinator, caller: Caller) -> None:
    await caller.join(ALICE)
    async with aclosing(caller.watch()) as views:
        await anext(views)
        assert running._service.watchers == 1
    await eventually(lambda: running._service.watchers == 0, "the stream is closed")


async def test_the_silent_leave_the_view(tmp_path: Path) -> None:
    async with coordinator(tmp_path, heartbeat_s=0.2) as quick, calling(quick.address) as caller:
        await caller.join(ALICE)
        await caller.join(BOB)
        async with asyncio.timeout(CALL_S):
            while "bob" in names((await caller.beat(ALICE)).view):
                await asyncio.sleep(0.02)
        assert quick._roster.counts["expiries"] == 1


async def test_runs_do_not_meet(running: Coordinator, caller: Caller) -> None:
    await caller.join(ALICE)
    async with calling(running.address, ("net", "other")) as other:
        assert names((await other.join(BOB)).view) == {"bob": "ALIVE"}
    assert [mesh.run for mesh in (await caller.overview()).meshes] == ["other", "run"]


HOSTILE: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no network": ({"network": ""}, {}),
    "a path as run": ({"run": "../../etc"}, {}),
    "no name": ({}, {"name": ""}),
    "a name with a line break": ({}, {"name": "a\nb"}),
    "no port": ({}, {"address": "host"}),
    "an address of nobody": ({}, {"address": "0.0.0.0:1"}),
    "an address that repaints the terminal": ({}, {"address": "\x1b[2J:1"}),
    "a long address": ({}, {"address": "h" * 300 + ":1"}),
    "a state that is none": ({}, {"state": 9}),
    "dead": ({}, {"state": 2}),
    "an incarnation beyond all": ({}, {"incarnation": 2**64 - 1}),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_request_that_is_no_claim_is_refused(running: Coordinator, caller: Caller, what: str) -> None:
    over, claimed = HOSTILE[what]
    member: dict[str, Any] = {"name": "alice", "address": "127.0.0.1:1", "incarnation": 1, **claimed}
    names_ = {"network": "net", "run": "run", **over}
    for method, kind in (("Join", wire.JoinRequest), ("Heartbeat", wire.HeartbeatRequest)):
        request = kind(member=wire.Member(**member), network=names_["network"], run=names_["run"])
        assert await refusal(caller.stub.call(method, request, CALL_S)) is Refusal.BAD_HEADER
    assert running._service.refusals == {"BAD_HEADER": 2}
    assert not (await caller.overview()).meshes


async def test_a_request_without_a_member_and_bytes_that_are_no_request_are_refused(running: Coordinator) -> None:
    async with channel(parse_address(running.address)) as line:
        empty = Stub(line, SERVICE).call("Join", wire.JoinRequest(), CALL_S)
        assert await refusal(empty) is Refusal.BAD_HEADER
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await line.unary_unary(f"/{SERVICE.full_name}/Join")(b"\xff\xff", timeout=CALL_S)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_large_request_is_refused_before_it_is_read(running: Coordinator, caller: Caller) -> None:
    big = wire.JoinRequest(network="n" * 2 * server.MAX_REQUEST_BYTES)
    assert await refusal(caller.stub.call("Join", big, CALL_S)) is Refusal.OVERSIZE
    await caller.join(ALICE)


async def test_leaving_or_watching_a_run_that_nobody_joined_is_refused(caller: Caller) -> None:
    assert await refusal(caller.leave(ALICE)) is Refusal.NETWORK_MISMATCH
    assert await refusal(anext(caller.watch())) is Refusal.NETWORK_MISMATCH


async def test_streams_of_one_connection_are_bounded(running: Coordinator, caller: Caller) -> None:
    await caller.join(ALICE)
    async with AsyncExitStack() as stack:
        for _ in range(MAX_STREAMS_PER_PEER):
            await anext(await stack.enter_async_context(aclosing(caller.watch())))
        assert await refusal(anext(caller.watch())) is Refusal.RATE_LIMITED
        async with calling(running.address) as other:
            assert names(await anext(other.watch())) == {"alice": "ALIVE"}


async def test_who_calls_too_often_is_refused_and_others_are_not(
    running: Coordinator, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PATIENCE_S", -pace.BURST_S + 5.5 / pace.CALLS_S)
    monkeypatch.setattr(running._clock, "now", lambda: 0.0)
    for _ in range(5):
        await caller.join(ALICE)
    assert await refusal(caller.join(ALICE)) is Refusal.RATE_LIMITED
    assert await refusal(caller.overview()) is Refusal.RATE_LIMITED
    assert await refusal(anext(caller.watch())) is Refusal.RATE_LIMITED
    assert running._service.refusals == {"RATE_LIMITED": 3}
    async with calling(running.address) as other:
        await other.join(BOB)


async def test_an_overview_that_would_not_fit_a_message_says_what_it_leaves_out(
    running: Coordinator, caller: Caller
) -> None:
    for i in range(5):
        for k in range(900):
            running._roster.hear(("net", f"run{i}"), Member(f"n{k}", f"{'h' * 240}:1"), running._clock.now())
    overview = await caller.overview()
    assert [len(mesh.members) for mesh in overview.meshes] == [900, 900, 900, 900, 0]
    assert "shown without theirs" in overview.warnings[0]


async def test_probes_and_tools_find_what_they_ask_for(running: Coordinator) -> None:
    async with channel(parse_address(running.address)) as line:
        health: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
        for name in ("", SERVICE.full_name):
            reply = await Stub(line, health).call("Check", health_pb2.HealthCheckRequest(service=name), CALL_S)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_coordinator_refuses_the_same_port_and_the_same_folder(
    running: Coordinator, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        async with coordinator(tmp_path / "other", listen=running.address):
            pass
    with pytest.raises(DataDirError, match="another coordinator"):
        async with coordinator(tmp_path):
            pass
