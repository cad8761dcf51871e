"""What travels beside a frame, on the side that keeps it and on the side that receives it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Mapping
from typing import BinaryIO

import numpy as np
import pytest

from peermerge.node.attachments import Arrivals, keep, kept, sweep
from peermerge.node.budget import Budget
from peermerge.node.config import RoundConfig
from peermerge.node.gather import Attachments, Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.service import PeerService
from peermerge.node.storage import MemoryStorage, Storage
from peermerge.protocol.blob import Blob
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import DegradedError, FrameError, PeerError, PeermergeError, Refusal, TransportError
from peermerge.protocol.members import Member
from peermerge.protocol.messages import Attachment, Point, PullRequest
from peermerge.protocol.parts import TAG_ATTACHMENT, TAG_CHUNK, TAG_ENVELOPE, pull_parts

from .worlds import BASE, MANIFEST, Faults, all_bytes, follower, header, publisher, random_delta

PACKED = {"fisher": b"information", "gram": bytes(range(200))}
LIMITS = {"fisher": 100, "gram": 200}
ASKED = PullRequest(network="net", run="run", name="bob", incarnation=1, have=Point()).encode()


def scratch(_size: int) -> BinaryIO:
    return io.BytesIO()


def announced() -> tuple[Attachment, ...]:
    return keep(MemoryStorage(), PACKED)


def arrived(
    parts: list[tuple[int, bytes]], limits: dict[str, int] = LIMITS, make: Callable[[int], BinaryIO] = scratch
) -> dict[str, bytes | str]:
    """Return what came of every kind: its bytes, or the name of the refusal."""
    arrivals = Arrivals(announced(), limits, make)
    for number, data in parts:
        if not arrivals.add(memoryview(bytes([number]) + data)):
            break
    found = {kind: understood(result) for kind, result in arrivals.result().items()}
    arrivals.close()
    return found


def understood(result: Blob | PeermergeError) -> bytes | str:
    if isinstance(result, PeerError):
        return result.refusal.name
    return type(result).__name__ if isinstance(result, PeermergeError) else all_bytes(result)


WHOLE = [(0, b"infor"), (0, b"mation"), (1, PACKED["gram"])]


def test_what_was_announced_arrives() -> None:
    assert arrived(WHOLE) == PACKED


def test_nothing_is_read_beyond_what_is_wanted() -> None:
    assert arrived(WHOLE, {"fisher": 100}) == {"fisher": PACKED["fisher"]}
    assert arrived(WHOLE, {"gram": 200}) == {"gram": "NO_STATISTICS"}
    assert arrived(WHOLE, {}) == {}


def test_kinds_that_are_not_announced_are_missing() -> None:
    assert arrived(WHOLE, {"second-moment": 10}) == {"second-moment": "NO_STATISTICS"}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([(0, b"informatioN")], "DIGEST_MISMATCH"),
        ([(0, b"inform")], "NO_STATISTICS"),
        ([], "NO_STATISTICS"),
    ],
)
def test_one_that_is_damaged_or_incomplete_harms_no_other(parts: list[tuple[int, bytes]], reason: str) -> None:
    assert arrived([*parts, WHOLE[2]]) == {"fisher": reason, "gram": PACKED["gram"]}


def test_one_that_is_too_large_is_refused_before_it_takes_room() -> None:
    sizes: list[int] = []

    def noted(size: int) -> BinaryIO:
        sizes.append(size)
        return io.BytesIO()

    assert arrived(WHOLE, LIMITS | {"gram": 199}, noted) == {"fisher": PACKED["fisher"], "gram": "OVERSIZE"}
    assert sizes == [len(PACKED["fisher"])]


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (b"", Refusal.BAD_HEADER),
        (b"\x02more", Refusal.BAD_HEADER),
        (b"\x00" + bytes(12), Refusal.OVERSIZE),
    ],
)
def test_more_than_announced_breaks_the_transfer_off(payload: bytes, refusal: Refusal) -> None:
    with pytest.raises(FrameError) as refused:
        Arrivals(announced(), LIMITS, scratch).add(memoryview(payload))
    assert refused.value.refusal is refusal


def test_a_disk_that_refuses_costs_the_attachment() -> None:
    def full(_size: int) -> BinaryIO:
        raise DegradedError("no space left")

    assert arrived(WHOLE, LIMITS, full) == {"fisher": "DegradedError", "gram": "DegradedError"}


def test_an_empty_attachment_arrives_with_its_announcement() -> None:
    arrivals = Arrivals(keep(MemoryStorage(), {"fisher": b""}), LIMITS, scratch)
    assert understood(arrivals.result()["fisher"]) == b""


def test_what_is_kept_is_found_by_its_digest_until_it_is_swept() -> None:
    storage = MemoryStorage()
    old, new = keep(storage, {"fisher": b"old"}), keep(storage, {"fisher": b"new"})
    assert all_bytes(kept(storage, old)[0]) == b"old"
    sweep(storage, new)
    assert kept(storage, old) == {}
    assert all_bytes(kept(storage, new)[0]) == b"new"


class Wire:
    """A publisher's service as a follower's transport; transfers break off after so many messages."""

    def __init__(self, versions: int) -> None:
        self.storage: Storage = MemoryStorage()
        self.log = publisher(self.storage)
        self._rng = np.random.default_rng(1)
        for _ in range(versions):
            self.publish()
        self.service = service(self.log, self.storage)
        self.breaks = 10**9
        self.script: list[bytes] | None = None
        """What is sent instead."""
        self.tags: list[bytes] = []
        self.ended = False

    def publish(self) -> None:
        attached = keep(self.storage, PACKED | {"fisher": b"of version %d" % self.log.version})
        self.log.append(random_delta(self._rng, density=0.9), header(self.log.last_round + 1, attachments=attached))

    async def pull(self, address: str, request: bytes, *, timeout_s: float, stall_s: float) -> AsyncIterator[bytes]:
        messages = self.script if self.script is not None else [m async for m in self.service.pull(request)]
        try:
            for number, message in enumerate(messages):
                if number == self.breaks:
                    raise TransportError(Refusal.TRANSPORT, "cut")
                self.tags += [tag for tag, _ in pull_parts(message)]
                yield message
        finally:
            self.ended = True


def service(log: PublishedLog, storage: Storage) -> PeerService:
    me = Identity("net", "run", "alice", 1, BASE, MANIFEST)
    members = Roster(Member("alice", "alice"), [])
    budget = Budget(VirtualClock())
    return PeerService(me, log, members, Peers(), lambda _: Point(), budget, lambda h: kept(storage, h.attachments))


class Following:
    """A follower that notes what came beside the frames."""

    def __init__(self, wire: Wire, limits: Mapping[str, int] = LIMITS) -> None:
        self.wire, self.replicas, self.peers = wire, follower(), Peers()
        self.came: list[dict[str, bytes | str]] = []
        me = Identity("net", "run", "bob", 1, BASE, MANIFEST)
        held, apply = self.replicas.point, self.replicas.apply
        self.gather = Gather(
            me,
            wire,  # type: ignore[arg-type]
            VirtualClock(),
            self.peers,
            RoundConfig(),
            held,
            apply,
            scratch,
            self.note,
            limits,
        )

    def note(self, peer: str, attachments: Attachments) -> None:
        self.came.append({kind: understood(found) for kind, found in attachments.items()})

    async def pull(self, breaks: int = 10**9) -> bool:
        self.wire.breaks = breaks
        return await self.gather.pull("alice", "alice", -1)


@pytest.mark.parametrize("versions", [1, 3])
def test_a_pull_brings_the_attachments_of_the_head(versions: int) -> None:
    async def program() -> None:
        following = Following(Wire(versions))
        assert await following.pull()
        assert following.came == [PACKED | {"fisher": b"of version %d" % (versions - 1)}]
        assert following.wire.tags.count(TAG_ATTACHMENT) == len(PACKED)

    run_virtual(program())


def test_a_frame_that_broke_off_brings_its_attachments_when_it_goes_on() -> None:
    async def program() -> None:
        following = Following(Wire(1))
        following.wire.service._budget.portion = 100
        assert not await following.pull(1)
        assert await following.pull()
        assert following.wire.tags.count(TAG_ATTACHMENT) == 1 + 2
        assert following.came == [PACKED | {"fisher": b"of version 0"}]

    run_virtual(program())


def test_the_frame_counts_though_its_attachments_break_off_and_those_of_the_next_version_come() -> None:
    async def program() -> None:
        wire = Wire(1)
        wire.service._budget.portion = 150
        following = Following(wire)
        chunks = -(-wire.log.read(wire.log.plan(Point())[0]).header.frame_bytes // 150)
        assert await following.pull(chunks + 2)
        assert wire.tags[-2:] == [TAG_ATTACHMENT] * 2
        assert following.replicas.point("alice") == wire.log.point
        assert following.came == [{"fisher": b"of version 0", "gram": "NO_STATISTICS"}]
        assert "cut" in following.peers["alice"].last_error
        wire.publish()
        assert await following.pull()
        assert following.came[1:] == [PACKED | {"fisher": b"of version 1"}]

    run_virtual(program())


def test_a_header_that_announces_what_is_not_wanted_is_read_to_the_end_of_its_frame() -> None:
    async def program() -> None:
        for limits in ({}, {"fisher": 2}, {"second-moment": 9}):
            wire = Wire(2)
            wire.service._budget.portion = 10
            following = Following(wire, limits)
            assert await following.pull()
            assert following.replicas.point("alice") == wire.log.point
            assert wire.tags.count(TAG_ATTACHMENT) == 1
            assert wire.ended, "the peer is told"

    run_virtual(program())


@pytest.mark.parametrize(
    ("tags", "counts"),
    [
        ((TAG_ATTACHMENT,), False),
        ((TAG_ENVELOPE, TAG_ATTACHMENT), True),
        ((TAG_ENVELOPE, TAG_ATTACHMENT, TAG_ENVELOPE), True),
        ((TAG_ENVELOPE, TAG_ATTACHMENT, TAG_CHUNK), True),
    ],
)
def test_attachments_are_the_end_of_a_stream_and_come_behind_a_whole_frame(
    tags: tuple[bytes, ...], counts: bool
) -> None:
    async def program() -> None:
        wire = Wire(1)
        following = Following(wire)
        (envelope, *rest) = [m async for m in wire.service.pull(ASKED)]
        assert {tag for tag, _ in pull_parts(envelope)} == {TAG_ENVELOPE, TAG_CHUNK}, "one message has the whole frame"
        sent = {TAG_ENVELOPE: envelope, TAG_ATTACHMENT: rest[0], TAG_CHUNK: b"C" + bytes(4)}
        wire.script = [sent[tag] for tag in tags]
        assert await following.pull() == counts
        assert (following.replicas.get("alice") is not None) == counts
        assert ("BAD_HEADER" in following.peers["alice"].last_error) == (tags[1:] != (TAG_ATTACHMENT,))
        assert bool(following.came) == counts

    run_virtual(program())


def test_a_transfer_that_breaks_off_in_a_later_frame_has_failed() -> None:
    async def program() -> None:
        wire = Wire(2)
        wire.service._budget.portion = 150
        following = Following(wire)
        first = wire.log.read(wire.log.plan(Point())[0]).header
        assert not await following.pull(-(-first.frame_bytes // 150) + 1)
        assert following.replicas.point("alice") == first.point
        assert following.came == []
        assert await following.pull()
        assert following.came == [PACKED | {"fisher": b"of version 1"}]

    run_virtual(program())


def test_the_frame_counts_though_its_attachments_are_gone() -> None:
    async def program() -> None:
        wire = Wire(1)
        sweep(wire.storage, [])
        following = Following(wire)
        assert await following.pull()
        assert following.replicas.point("alice") == wire.log.point
        assert following.came == [{"fisher": "NO_STATISTICS", "gram": "NO_STATISTICS"}]

    run_virtual(program())


def test_faults_of_the_disk_while_reading_back_cost_the_attachment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peermerge.node.attachments.written", Faults(lambda file: file, 1))
    assert arrived(WHOLE) == {"fisher": "DegradedError", "gram": "DegradedError"}
