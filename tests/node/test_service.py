"""What a node answers to a Pull: entries of its log, read from where they lie, from any offset of a frame."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peermerge.node.budget import Budget
from peermerge.node.config import RoundConfig
from peermerge.node.events import EventList
from peermerge.node.gather import Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replicas
from peermerge.node.service import PeerService
from peermerge.node.storage import DiskStorage, MemoryStorage
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import EnvelopeError, PeerError, TransportError
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.members import Member
from peermerge.protocol.messages import Point, PullRequest
from peermerge.protocol.parts import TAG_ENVELOPE, pull_parts

from .worlds import BASE, MANIFEST, RecordingStorage, all_bytes, follower, header, publish, publisher

ASKED = PullRequest(network="net", run="run", name="bob", incarnation=1, have=Point())


def service(log: PublishedLog, bytes_s: float = 0) -> PeerService:
    me = Identity("net", "run", "alice", 1, BASE, MANIFEST)
    members = Roster(Member("alice", "alice"), [])
    return PeerService(me, log, members, Peers(), lambda _: Point(), Budget(VirtualClock(), bytes_s))


def filled(versions: int) -> tuple[PublishedLog, RecordingStorage]:
    storage = RecordingStorage()
    log = publisher(storage, retention=8)
    publish(log, np.random.default_rng(0), versions)
    return log, storage


def answered(log: PublishedLog, request: PullRequest) -> tuple[list[bytes], list[bytes]]:
    """Return the envelopes of a Pull and what follows each."""

    async def program() -> tuple[list[bytes], list[bytes]]:
        envelopes: list[bytes] = []
        frames: list[bytes] = []
        async for message in service(log).pull(request.encode()):
            for tag, payload in pull_parts(message):
                if tag == TAG_ENVELOPE:
                    envelopes.append(bytes(payload))
                    frames.append(b"")
                else:
                    frames[-1] += payload
        return envelopes, frames

    return run_virtual(program())


def test_a_pull_is_answered_with_the_entries_of_the_plan() -> None:
    log, _ = filled(3)
    entries = [log.read(name) for name in log.plan(Point())]
    envelopes, frames = answered(log, ASKED)
    assert envelopes == [entry.envelope for entry in entries]
    assert frames == [all_bytes(entry.frame) for entry in entries]
    assert answered(log, replace(ASKED, have=log.point)) == ([], [])


@pytest.mark.parametrize("which", [0, 2])
def test_the_first_frame_goes_on_where_it_broke_off_and_the_others_are_sent_whole(which: int) -> None:
    log, _ = filled(3)
    entries = [log.read(name) for name in log.plan(Point())]
    frames = [all_bytes(entry.frame) for entry in entries]
    size = len(frames[which])
    for offset in (0, 1, size - 1, size):
        asked = replace(ASKED, partial=entries[which].header.frame_sha256, offset=offset)
        rest = [frames[0][0 if which else offset :], *frames[1:]]
        assert answered(log, asked) == ([entry.envelope for entry in entries], rest)
    for partial, offset in ((bytes(32), 1), (entries[which].header.frame_sha256, size + 1), (b"", 7)):
        assert answered(log, replace(ASKED, partial=partial, offset=offset))[1] == frames


def test_what_the_log_no_longer_has_or_can_read_is_a_failed_transfer() -> None:
    log, storage = filled(2)
    first, second = log.plan(Point())
    data = storage.read(first) or b""
    for damaged in (None, data[:-1], b""):
        storage.remove(first) if damaged is None else storage.write(first, damaged)
        with pytest.raises(TransportError, match="ask again"):
            answered(log, ASKED)
        storage.write(first, data)
    assert len(answered(log, ASKED)[0]) == 2
    assert storage.names("log") == [first, second]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_entry_that_is_compacted_away_while_it_is_sent_still_goes_out_whole(kind: str, tmp_path: Path) -> None:
    storage = MemoryStorage() if kind == "memory" else DiskStorage(tmp_path)
    log = publisher(storage, retention=1, manifest=manifest_of([("weight", (200, 100), "float32", False)]))
    publish(log, np.random.default_rng(0))
    name = log.plan(Point())[0]
    whole = all_bytes(log.read(name).frame)

    async def program() -> list[bytes]:
        chunks: list[bytes] = []
        async for message in service(log, 1.0).pull(ASKED.encode()):
            chunks += [bytes(payload) for tag, payload in pull_parts(message) if tag != TAG_ENVELOPE]
            if log.version == 1:
                publish(log, np.random.default_rng(1), 3)
                assert name not in storage.names("log")
        return chunks

    chunks = run_virtual(program())
    assert len(chunks) > 3
    assert b"".join(chunks) == whole


class Direct:
    """A transport to a service in this process, without anything in between."""

    def __init__(self, service: PeerService) -> None:
        self._service = service

    def pull(self, address: str, request: bytes, *, timeout_s: float, stall_s: float) -> AsyncIterator[bytes]:
        return self._service.pull(request)


def test_serving_and_following_take_the_memory_of_a_few_segments_whatever_the_frames_size(tmp_path: Path) -> None:
    manifest = manifest_of([("weight", (1 << 23,), "float32", False)])
    mine, theirs = DiskStorage(tmp_path / "alice"), DiskStorage(tmp_path / "bob")
    log = publisher(mine, manifest=manifest)
    levels = np.random.default_rng(0).integers(1, 1 << 16, manifest.length, dtype=np.int32)
    log.append(Delta(np.full(1, -20, np.int8), np.arange(manifest.length), levels), header())
    replicas = Replicas(manifest, log.state.floors, BASE, tmp_path / "replicas")

    async def program() -> int:
        me = Identity("net", "run", "bob", 1, BASE, manifest)
        line, settings, held = Direct(service(log)), RoundConfig(), replicas.point
        gather = Gather(me, line, VirtualClock(), Peers(), settings, held, replicas.apply, theirs.scratch)  # type: ignore[arg-type]
        tracemalloc.start()
        assert await gather.pull("alice", "alice", -1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak = run_virtual(program())
    assert len(log.read(log.plan(Point())[0])) > 16 << 20
    # What a replica is prepared against before its file is there is zeros, which take no memory.
    assert peak - 4 * manifest.length < 12 << 20
    held = replicas.get("alice")
    assert held is not None
    assert held.state.digest == log.state.digest
    for storage in (mine, theirs):
        storage.close()


@pytest.mark.parametrize(
    ("changes", "waits", "frames"),
    [
        ({}, False, 3),
        ({"wait_round": 2}, False, 3),
        ({"have": "head"}, True, 0),
        ({"have": "head", "wait_round": 2}, False, 0),
        ({"snapshot": True}, True, 3),
        ({"have": Point(1, 9, bytes(32), 0)}, True, 3),
    ],
    ids=["behind us", "of our round", "abreast", "has it all", "wants a snapshot", "of a history that we lost"],
)
def test_only_whom_we_cannot_help_is_parked(changes: dict[str, Any], waits: bool, frames: int) -> None:
    log, _ = filled(3)
    if changes.get("have") == "head":
        changes = changes | {"have": log.point}
    asked = replace(ASKED, **{"wait_round": 5, "wait_s": 7.0} | changes)

    async def program() -> tuple[float, int]:
        clock, parking = VirtualClock(), service(log)
        await parking.announce(log.last_round)
        messages = [message async for message in parking.pull(asked.encode())]
        return clock.now(), len(messages)

    assert run_virtual(program()) == (7.0 if waits else 0.0, frames)


def test_a_round_takes_what_a_slower_peer_has_and_waits_on_for_its_own() -> None:
    log, _ = filled(2)

    async def program() -> None:
        alice, clock, peers, replicas, events = service(log), VirtualClock(), Peers(), follower(), EventList("bob")
        me, rounds = Identity("net", "run", "bob", 1, BASE, MANIFEST), RoundConfig(floor_s=1.0, ceiling_s=8.0)
        scratch, held = MemoryStorage().scratch, replicas.point
        line = Direct(alice)
        gather = Gather(me, line, clock, peers, rounds, held, replicas.apply, scratch, events=events)  # type: ignore[arg-type]

        async def publish_up_to(round_: int) -> None:
            publish(log, np.random.default_rng(round_), round_ - log.last_round)
            await alice.announce(round_)

        await alice.announce(1)
        waiting = asyncio.create_task(gather.gather({"alice": "alice"}, 4))
        await clock.sleep(1)
        assert replicas.point("alice") == log.point, "what is there is no longer withheld"
        await publish_up_to(3)
        await clock.sleep(1)
        assert not waiting.done(), "it is not the round that is waited for"
        await publish_up_to(4)
        await waiting
        assert clock.now() == 2
        assert replicas.point("alice") == log.point
        assert peers["alice"].waited_for
        assert [pull["arrived"] for pull in events.events] == [2, 3]

        waiting = asyncio.create_task(gather.gather({"alice": "alice"}, 5))
        await clock.sleep(1)
        await publish_up_to(5)
        await waiting
        assert [pull["arrived"] for pull in events.events] == [2, 3, 1], "who is abreast is asked once"

        await publish_up_to(6)
        started = clock.now()
        await gather.gather({"alice": "alice"}, 9)
        assert clock.now() == started + gather.deadline.seconds
        assert not peers["alice"].waited_for, "an older version is no arrival"
        assert replicas.point("alice") == log.point
        await clock.sleep(rounds.ceiling_s)
        assert not gather._pulls
        assert sum(pull["seconds"] for pull in events.events[3:]) == rounds.ceiling_s

    run_virtual(program())


def test_only_those_we_have_met_get_an_account() -> None:
    log, _ = filled(1)
    asked = service(log)

    async def program() -> None:
        for n in range(8):
            assert [message async for message in asked.pull(replace(ASKED, name=f"stranger{n}").encode())]
        assert not asked._peers
        asked._membership.learn([Member("bob", "bob")])
        assert [message async for message in asked.pull(ASKED.encode())]
        assert list(asked._peers) == ["bob"]

    run_virtual(program())


def test_what_a_peer_says_it_holds_counts_for_more_than_what_it_was_sent() -> None:
    log, _ = filled(2)
    asked = service(log)
    asked._membership.learn([Member("bob", "bob")])

    async def program() -> None:
        assert [message async for message in asked.pull(ASKED.encode())]
        assert asked._peers["bob"].served == (1, 2)
        again = asked.pull(ASKED.encode())
        await anext(again)
        assert asked._peers["bob"].served == (0, 0), "it was lost on the way"
        assert [message async for message in again]
        assert asked._peers["bob"].served == (1, 2)

    run_virtual(program())


def test_strangers_and_nonsense_are_refused() -> None:
    log, _ = filled(1)
    for request in (replace(ASKED, network="other"), replace(ASKED, run="other")):
        with pytest.raises(EnvelopeError, match="NETWORK_MISMATCH"):
            answered(log, request)

    async def program() -> None:
        with pytest.raises(PeerError, match="BAD_HEADER"):
            await anext(aiter(service(log).pull(b"\xff")))

    run_virtual(program())
