"""What a node takes from a Pull stream: whole frames, checked before they are believed, resumed where they broke."""

import asyncio
import errno
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from peermerge.node.backoff import FIRST_S, JITTER
from peermerge.node.config import RoundConfig
from peermerge.node.events import EventList
from peermerge.node.gather import STALL_S, Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replica, Replicas
from peermerge.node.spool import KEEP_S
from peermerge.node.storage import DiskStorage, MemoryStorage
from peermerge.protocol.blob import Blob
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import PeerError, Refusal, TransportError
from peermerge.protocol.limits import CHUNK_BYTES
from peermerge.protocol.messages import Envelope, Header, PullRequest
from peermerge.protocol.parts import TAG_CHUNK, pull_messages, pull_parts

from .worlds import BASE, MANIFEST, Faults, all_bytes, equal, follower, publish, publisher

CHUNK = 40
Script = Callable[[list[bytes]], Iterator[bytes]]


def whole(messages: list[bytes]) -> Iterator[bytes]:
    return iter(messages)


def cut(after: int) -> Script:
    """Break off after so many messages."""

    def script(messages: list[bytes]) -> Iterator[bytes]:
        yield from messages[:after]
        raise TransportError(Refusal.TRANSPORT, "cut")

    return script


class Peer:
    """A transport that answers a pull from a log as a node does, by a script; notes what was asked and sent."""

    def __init__(self, log: PublishedLog) -> None:
        self.log = log
        self.script: Script = whole
        self.pauses_s = (0.0, 0.0)
        """Before the first message, and before each later one."""
        self.asked: list[PullRequest] = []
        self.sent = 0

    async def pull(self, address: str, request: bytes, *, timeout_s: float, stall_s: float) -> AsyncIterator[bytes]:
        asked = PullRequest.decode(request)
        self.asked.append(asked)
        messages: list[bytes] = []
        for entry in map(self.log.read, self.log.plan(asked.have)):
            offset = asked.offset if asked.partial == entry.header.frame_sha256 else 0
            messages += pull_messages(entry.envelope, entry.frame, offset, CHUNK)
        for number, message in enumerate(self.script(messages)):
            await asyncio.sleep(self.pauses_s[number > 0])
            self.sent += sum(len(payload) for tag, payload in pull_parts(message) if tag == TAG_CHUNK)
            yield message


class World:
    """A follower of one peer, in virtual time."""

    def __init__(
        self, versions: int = 1, scratch: Callable[[int], BinaryIO] | None = None, rounds: RoundConfig | None = None
    ) -> None:
        self.log = publisher()
        publish(self.log, np.random.default_rng(3), versions)
        self.peer, self.replicas, self.peers = Peer(self.log), follower(), Peers()
        self.asked_for: list[int] = []
        self.clock = VirtualClock()
        me = Identity("net", "run", "me", 1, BASE, MANIFEST)

        make = scratch or MemoryStorage().scratch

        def noted(size: int) -> BinaryIO:
            self.asked_for.append(size)
            return make(size)

        self.apply: Callable[[str, Header, Blob], Replica] = self.replicas.apply
        self.events = EventList("me")
        self.gather = Gather(
            me,
            self.peer,  # type: ignore[arg-type]
            self.clock,
            self.peers,
            rounds or RoundConfig(),
            self.replicas.point,
            lambda *frame: self.apply(*frame),
            noted,
            events=self.events,
        )

    async def pull(self, script: Script = whole) -> bool:
        self.peer.script = script
        return await self.gather.pull("alice", "alice", -1)

    async def round(self, number: int) -> None:
        await self.gather.gather({"alice": "alice"}, number)

    @property
    def pulls(self) -> list[dict[str, Any]]:
        return self.events.events

    @property
    def error(self) -> str:
        return self.peers["alice"].last_error

    @property
    def frame_bytes(self) -> int:
        return sum(self.log.read(name).header.frame_bytes for name in self.log.plan(follower().point("alice")))


@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_transfer_that_breaks_off_again_and_again_goes_on_where_it_stopped(seed: int, versions: int) -> None:
    async def program() -> None:
        world, draw = World(versions), np.random.default_rng(seed)
        for _ in range(12):
            assert not await world.pull(cut(0))
            await world.pull(cut(int(draw.integers(1, 4))))
        assert await world.pull() or world.replicas.point("alice") == world.log.point
        held = world.replicas.get("alice")
        assert held is not None
        assert equal(held.state, world.log.state)
        assert world.peer.sent == world.frame_bytes, "no byte of a frame was sent twice"
        assert not world.gather._spools._kept

    run_virtual(program())


def test_what_is_held_of_a_frame_is_of_no_use_for_another() -> None:
    async def program() -> None:
        world = World()
        await world.pull(cut(2))
        partial = world.log.header
        assert partial is not None
        publish(world.log, np.random.default_rng(9), 5)
        assert await world.pull()
        assert world.peer.asked[-1].partial == partial.frame_sha256
        assert world.peer.asked[-1].offset == 2 * CHUNK
        assert world.replicas.point("alice") == world.log.point
        assert not world.gather._spools._kept

    run_virtual(program())


def forged(change: Callable[[Header], Header]) -> Script:
    """Send other envelopes before the same chunks."""

    def script(messages: list[bytes]) -> Iterator[bytes]:
        for message in messages:
            parts = [(tag, bytes(payload)) for tag, payload in pull_parts(message)]
            if parts[0][0] == TAG_CHUNK:
                yield message
                continue
            header = change(Header.decode(Envelope.decode(parts[0][1]).header))
            yield next(pull_messages(Envelope(header.encode()).encode(), parts[1][1]))

    return script


def damaged(messages: list[bytes]) -> Iterator[bytes]:
    yield from messages[:-1]
    yield messages[-1][:-1] + bytes([messages[-1][-1] ^ 1])


REFUSED: dict[str, tuple[Script, str]] = {
    "damaged on the way": (damaged, "DIGEST_MISMATCH"),
    "too long": (lambda m: iter([*m[:-1], m[-2], m[-1]]), "OVERSIZE"),
    "longer than any frame of this model": (forged(lambda h: replace(h, frame_bytes=1 << 40)), "OVERSIZE"),
    "an envelope inside a frame": (lambda m: iter([m[0], m[0]]), "TRUNCATED"),
    "a chunk without an envelope": (lambda m: iter(m[1:]), "BAD_HEADER"),
    "no parts at all": (lambda m: iter([m[0], b"zzz"]), "TRUNCATED"),
    "of another sender": (forged(lambda h: replace(h, sender="bob")), "UNKNOWN_SENDER"),
    "of another network": (forged(lambda h: replace(h, network="other")), "NETWORK_MISMATCH"),
    "of another base": (forged(lambda h: replace(h, base=bytes(32))), "BASE_MISMATCH"),
    "of another model": (forged(lambda h: replace(h, manifest=bytes(32))), "MANIFEST_MISMATCH"),
    "of another state": (forged(lambda h: replace(h, state=h.state ^ 1)), "DIGEST_MISMATCH"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing_behind_and_the_next_pull_starts_anew(name: str) -> None:
    async def program() -> None:
        script, refusal = REFUSED[name]
        world = World()
        assert not await world.pull(script)
        assert refusal in world.error
        assert world.replicas.get("alice") is None
        assert not world.gather._spools._kept
        assert all(size == world.frame_bytes for size in world.asked_for), "room is taken for checked envelopes alone"
        assert await world.pull()
        assert (world.peer.asked[-1].partial, world.peer.asked[-1].offset) == (b"", 0)
        assert world.replicas.point("alice") == world.log.point

    run_virtual(program())


def test_a_peers_own_refusal_and_a_stream_that_ends_too_early_keep_what_came() -> None:
    async def program() -> None:
        world = World()

        def busy(messages: list[bytes]) -> Iterator[bytes]:
            yield messages[0]
            raise PeerError(Refusal.RATE_LIMITED, "later")

        assert not await world.pull(busy)
        assert not await world.pull(lambda messages: iter(messages[:2]))
        assert f"{3 * CHUNK} of {world.frame_bytes} bytes" in world.error
        assert await world.pull()
        assert [asked.offset for asked in world.peer.asked] == [0, CHUNK, 3 * CHUNK]

    run_virtual(program())


def test_spools_of_peers_that_are_gone_are_dropped() -> None:
    async def program() -> None:
        world = World()
        await world.pull(cut(1))
        await world.clock.sleep(KEEP_S / 2)
        await world.pull(cut(1))
        await world.clock.sleep(KEEP_S - 1)
        await world.gather.gather({}, 0)
        assert world.gather._spools.held("alice")[1] == 2 * CHUNK
        await world.clock.sleep(2)
        await world.gather.gather({}, 0)
        assert world.gather._spools.held("alice") == (b"", 0)

    run_virtual(program())


def test_a_closed_node_keeps_nothing() -> None:
    async def program() -> None:
        world = World()
        await world.pull(cut(1))
        await world.gather.close()
        assert not world.gather._spools._kept

    run_virtual(program())


def test_a_disk_that_has_no_room_costs_the_transfer_and_not_the_node() -> None:
    async def program() -> None:
        fault = Faults(io.BytesIO.write, 2, errno.ENOSPC)

        class Full(io.BytesIO):
            write = fault  # type: ignore[assignment]

        files: list[BinaryIO] = [Full(), io.BytesIO()]
        world = World(scratch=lambda size: files.pop(0))
        assert not await world.pull()
        assert fault.fired
        assert "no room" in world.error
        assert world.replicas.get("alice") is None
        assert not world.gather._spools._kept
        assert await world.pull()
        assert world.replicas.point("alice") == world.log.point

    run_virtual(program())


def test_scratch_of_more_than_a_chunk_lies_on_the_disk_without_a_name(tmp_path: Path) -> None:
    disk = DiskStorage(tmp_path)
    for size, on_disk in ((CHUNK_BYTES, False), (CHUNK_BYTES + 1, True)):
        with disk.scratch(size) as file:
            file.write(bytes(10))
            assert isinstance(file, io.BytesIO) != on_disk
            if on_disk:
                assert Path(f"/proc/self/fd/{file.fileno()}").readlink().is_relative_to(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    disk.close()


def test_replicas_follow_frames_that_lie_on_the_disk(tmp_path: Path) -> None:
    disk = DiskStorage(tmp_path / "log")
    log = publisher(disk)
    replicas: Replicas = follower(tmp_path / "replicas")
    for _ in range(3):
        publish(log, np.random.default_rng(log.version), 3)
        for name in log.plan(replicas.point("alice")):
            entry = log.read(name)
            (tmp_path / "log" / name).rename(tmp_path / "moved")
            replicas.apply("alice", entry.header, entry.frame)
            assert len(all_bytes(entry.frame)) == entry.header.frame_bytes
            (tmp_path / "moved").rename(tmp_path / "log" / name)
        held = replicas.get("alice")
        assert held is not None
        assert equal(held.state, log.state)
    disk.close()


FAST = RoundConfig(floor_s=1.0, ceiling_s=4.0)


def test_a_drip_of_good_chunks_is_given_up_at_the_lowest_rate_and_goes_on_where_it_stopped() -> None:
    async def program() -> None:
        world = World(rounds=RoundConfig(min_rate_bytes_s=100.0))
        allowed = max(STALL_S, world.frame_bytes / 100)
        world.peer.pauses_s = (1.0, STALL_S - 0.1)
        attempts = 0
        while world.replicas.point("alice") != world.log.point:
            assert attempts < 40
            before = world.peer.sent
            await world.pull()
            attempts += 1
            assert world.peer.sent > before, "each brings some of it"
        assert attempts > 2
        assert world.peer.sent == world.frame_bytes, "no byte was sent twice"
        assert world.pulls[0]["reason"] == "DEADLINE"
        assert world.pulls[0]["seconds"] == pytest.approx(1 + allowed, abs=0.01)
        assert all(pull["seconds"] <= pull["limit_s"] + 0.001 for pull in world.pulls)

    run_virtual(program())


def test_who_says_nothing_is_given_up_soon_after_the_wait_it_was_asked_for() -> None:
    async def program() -> None:
        world = World(rounds=FAST)
        world.peer.pauses_s = (1000.0, 0.0)
        assert not await world.gather.pull("alice", "alice", 0)
        assert world.clock.now() == pytest.approx(FAST.ceiling_s + STALL_S)
        assert world.pulls[0]["limit_s"] == FAST.ceiling_s + STALL_S

    run_virtual(program())


def test_what_we_do_with_a_frame_ourselves_does_not_count() -> None:
    async def program() -> None:
        world = World(versions=3)
        work = world.clock.work

        async def busy(job: Callable[[], object], cost_s: float = 0.0) -> object:
            return await work(job, 100.0)

        world.clock.work = busy  # type: ignore[method-assign, assignment]
        assert await world.pull()
        assert world.clock.now() >= 300
        assert world.pulls[0]["reason"] == ""
        assert world.pulls[0]["seconds"] <= world.pulls[0]["limit_s"]

    run_virtual(program())


def test_no_second_pull_is_queued_behind_one_under_way_and_no_round_waits_for_it() -> None:
    async def program() -> None:
        world = World(rounds=FAST)
        world.peer.pauses_s = (7.0, 0.0)
        await world.round(0)
        assert world.clock.now() == FAST.ceiling_s
        for number in range(1, 4):
            await world.round(number)
        assert world.clock.now() == FAST.ceiling_s + 3 * FAST.floor_s, "no longer than peers usually take"
        assert len(world.peer.asked) == 1
        assert not world.peers["alice"].waited_for
        await world.clock.sleep(1)
        assert world.replicas.point("alice") == world.log.point, "what is late is applied"

    run_virtual(program())


def test_a_peer_that_fails_is_asked_again_after_a_pause_that_grows() -> None:
    async def program() -> None:
        world = World(rounds=FAST)
        world.peer.script = cut(0)
        times: list[float] = []
        for number in range(400):
            asked = len(world.peer.asked)
            await world.round(number)
            if len(world.peer.asked) > asked:
                times.append(world.clock.now())
            await world.clock.sleep(0.1)
        pauses = [b - a for a, b in pairwise(times)]
        assert FIRST_S * (1 - JITTER) <= pauses[0] <= FIRST_S * (1 + JITTER) + 0.1
        assert pauses[0] < pauses[3] < pauses[6]
        assert 3.9 < max(pauses) < 6.2
        assert world.peers["alice"].backoff.failures == len(world.peer.asked) == len(world.pulls)
        world.gather.welcome("alice")
        world.peer.script = whole
        await world.round(400)
        assert world.replicas.point("alice") == world.log.point, "who denies that it is gone is asked at once"
        assert world.peers["alice"].backoff.failures == 0

    run_virtual(program())


def test_a_dropped_peers_pull_ends_at_once_and_so_does_the_wait_for_it() -> None:
    async def program() -> None:
        world = World(rounds=FAST)
        world.peer.pauses_s = (100.0, 0.0)
        waiting = asyncio.create_task(world.round(0))
        await world.clock.sleep(1)
        world.gather.drop("alice")
        await waiting
        assert world.clock.now() == 1
        assert [pull["reason"] for pull in world.pulls] == ["CANCELLED"]
        assert world.peers["alice"].backoff.failures == 0, "that was us"
        world.gather.drop("nobody")
        assert "nobody" not in world.peers

    run_virtual(program())


def test_a_frame_that_is_being_applied_is_applied_though_its_peer_is_dropped() -> None:
    async def program() -> None:
        world = World()
        work = world.clock.work

        async def busy(job: Callable[[], object], cost_s: float = 0.0) -> object:
            await world.clock.sleep(5)
            return await work(job)

        world.clock.work = busy  # type: ignore[method-assign, assignment]
        pulling = asyncio.create_task(world.pull())
        await world.clock.sleep(1)
        world.gather.drop("alice")
        assert not await pulling
        assert world.clock.now() == 5
        assert world.replicas.point("alice") == world.log.point

    run_virtual(program())


def test_what_no_pull_should_die_of_ends_the_next_round() -> None:
    async def program() -> None:
        world = World(rounds=FAST)

        def broken(*_: object) -> Replica:
            raise ZeroDivisionError

        world.apply = broken
        world.peer.pauses_s = (FAST.ceiling_s + 1, 0.0)
        await world.round(0)
        await world.clock.sleep(2)
        with pytest.raises(ZeroDivisionError):
            await world.round(1)

    run_virtual(program())


def test_a_node_that_catches_up_waits_for_what_is_there_and_not_for_those_that_hang() -> None:
    async def program() -> None:
        world = World(rounds=FAST)
        await world.gather.refresh({"alice": "alice"})
        assert world.replicas.point("alice") == world.log.point
        assert world.peer.asked[-1].wait_round == -1
        world.peer.pauses_s = (100.0, 0.0)
        publish(world.log, np.random.default_rng(5))
        await world.gather.refresh({"alice": "alice"})
        assert world.clock.now() == FAST.ceiling_s
        await world.gather.close()

    run_virtual(program())
