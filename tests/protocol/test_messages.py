"""Messages survive the wire unchanged, and a stranger's bytes are refused by name."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.entropy import Buffer
from peermerge.protocol.errors import EnvelopeError, FrameError, PeerError, Refusal
from peermerge.protocol.limits import CHUNK_BYTES, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES
from peermerge.protocol.members import Member
from peermerge.protocol.messages import (
    Attachment,
    Edge,
    Envelope,
    Header,
    Hello,
    Merged,
    Point,
    PullRequest,
)
from peermerge.protocol.parts import (
    BASE_TAGS,
    TAG_ATTACHMENT,
    TAG_CHUNK,
    TAG_ENVELOPE,
    AnnouncedBase,
    base_messages,
    pull_messages,
    pull_parts,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32)
SHARES = st.floats(0, 1, width=32)
POINTS = st.builds(Point, st.integers(1, 2**31), st.integers(0, 2**60), DIGESTS, st.integers(0, 2**61 - 2))
MERGED = st.builds(Merged, st.integers(1, 2**31), st.integers(0, 2**60), SHARES, SHARES, SHARES)
HELLOS = st.builds(
    Hello,
    network=NAMES,
    run=NAMES,
    name=NAMES,
    address=st.just("127.0.0.1:1"),
    incarnation=st.integers(0, 2**60),
    manifest=DIGESTS,
    base=DIGESTS,
    members=st.lists(st.builds(Member, NAMES, st.just("[::1]:2")), max_size=5).map(tuple),
    round=st.integers(0, 2**60),
    published=POINTS,
    held=POINTS | st.just(Point()),
)
HEADERS = st.builds(
    Header,
    network=NAMES,
    run=NAMES,
    view=st.integers(0, 2**64 - 1),
    sender=NAMES,
    incarnation=st.integers(0, 2**60),
    epoch=st.integers(1, 2**31),
    version=st.integers(10, 2**60),
    from_version=st.integers(0, 9),
    round=st.integers(0, 2**60),
    base=DIGESTS,
    manifest=DIGESTS,
    chain=DIGESTS,
    state=st.integers(0, 2**61 - 2),
    frame_bytes=st.integers(0, 2**40),
    frame_sha256=DIGESTS,
    omega=SHARES,
    fresh=SHARES,
    edges=st.lists(st.builds(Edge, NAMES, SHARES, MERGED | st.none()), max_size=4).map(tuple),
    local_steps=st.integers(0, 2**31),
    samples=st.integers(0, 2**60),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(-1e6, 1e6, width=32), max_size=3),
    attachments=st.lists(st.builds(Attachment, NAMES, st.integers(0, 2**30), DIGESTS), max_size=2).map(tuple),
)
REQUESTS = st.builds(
    PullRequest,
    network=NAMES,
    run=NAMES,
    name=NAMES,
    incarnation=st.integers(0, 2**60),
    have=POINTS | st.just(Point()),
    wait_round=st.integers(-1, 2**60),
    wait_s=st.floats(0, 1e6),
    partial=DIGESTS | st.just(b""),
    offset=st.integers(0, 2**60),
    snapshot=st.booleans(),
)


@given(HELLOS)
def test_a_hello_arrives_as_it_left(hello: Hello) -> None:
    assert Hello.decode(hello.encode()) == hello


@given(HEADERS)
def test_a_header_arrives_as_it_left_and_in_the_same_bytes(header: Header) -> None:
    data = header.encode()
    assert Header.decode(data) == header
    assert Header.decode(data).encode() == data
    assert header.point == Point(header.epoch, header.version, header.chain, header.state)


@given(REQUESTS)
def test_a_request_arrives_as_it_left(request: PullRequest) -> None:
    assert PullRequest.decode(request.encode()) == request


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_named_refusal(data: bytes) -> None:
    for kind in (Hello, Header, PullRequest, Envelope):
        with suppress(PeerError):
            kind.decode(data)


def header(**changes: object) -> bytes:
    digest = hashlib.sha256(b"x").digest()
    whole = wire.Header(
        protocol=1,
        network="n",
        run="r",
        sender="a",
        epoch=1,
        version=2,
        from_version=1,
        base=digest,
        manifest=digest,
        chain=digest,
        frame_sha256=digest,
        frame_bytes=3,
    )
    for key, value in changes.items():
        setattr(whole, key, value)
    return whole.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"protocol": 2}, Refusal.UNSUPPORTED_VERSION),
        ({"sender": "../../etc"}, Refusal.BAD_HEADER),
        ({"sender": ""}, Refusal.BAD_HEADER),
        ({"run": "A"}, Refusal.BAD_HEADER),
        ({"chain": b"short"}, Refusal.BAD_HEADER),
        ({"from_version": 2}, Refusal.BAD_HEADER),
        ({"omega": float("nan")}, Refusal.NON_FINITE),
        ({"omega": -1.0}, Refusal.NON_FINITE),
        ({"fresh": float("inf")}, Refusal.NON_FINITE),
    ],
)
def test_a_header_that_cannot_be_is_refused_by_name(changes: dict[str, object], refusal: Refusal) -> None:
    with pytest.raises(EnvelopeError) as caught:
        Header.decode(header(**changes))
    assert caught.value.refusal == refusal


@pytest.mark.parametrize("edge", [{"weight": 1.5}, {"weight": -0.1}, {"weight": float("nan")}, {"peer": "no name"}])
def test_an_edge_that_cannot_be_is_refused(edge: dict[str, object]) -> None:
    whole = wire.Header.FromString(header())
    whole.edges.add(**({"peer": "b", "weight": 0.5} | edge))
    with pytest.raises(EnvelopeError):
        Header.decode(whole.SerializeToString())


def test_attachments_beyond_their_limits_are_refused() -> None:
    whole = wire.Header.FromString(header())
    whole.attachments.add(kind="fisher", bytes=2**40, sha256=bytes(32))
    with pytest.raises(EnvelopeError) as caught:
        Header.decode(whole.SerializeToString())
    assert caught.value.refusal == Refusal.OVERSIZE


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    whole = wire.Header.FromString(header())
    whole.metrics["loss"] = float("nan")
    whole.metrics["accuracy"] = 0.5
    assert Header.decode(whole.SerializeToString()).metrics == {"accuracy": 0.5}


def test_more_bytes_than_a_header_may_have_are_not_even_parsed() -> None:
    with pytest.raises(EnvelopeError) as caught:
        Header.decode(bytes(MAX_HEADER_BYTES + 1))
    assert caught.value.refusal == Refusal.OVERSIZE


def test_a_signature_has_its_length_or_is_absent() -> None:
    assert Envelope.decode(Envelope(b"h", bytes(64)).encode()) == Envelope(b"h", bytes(64))
    with pytest.raises(EnvelopeError) as caught:
        Envelope.decode(Envelope(b"h", b"short").encode())
    assert caught.value.refusal == Refusal.BAD_SIGNATURE


@given(
    st.binary(min_size=1, max_size=50) | st.just(bytes(MAX_HEADER_BYTES)),
    st.integers(0, 3 * CHUNK_BYTES),
    st.integers(0, 3 * CHUNK_BYTES),
    st.integers(CHUNK_BYTES // 8, CHUNK_BYTES),
)
def test_a_stream_carries_envelope_and_frame_from_any_offset(
    envelope: bytes, size: int, offset: int, chunk: int
) -> None:
    frame, offset = random.Random(size).randbytes(size), min(offset, size)
    messages = list(pull_messages(envelope, frame, offset, chunk))
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    parts = [(tag, bytes(payload)) for message in messages for tag, payload in pull_parts(message)]
    assert parts[0] == (TAG_ENVELOPE, envelope)
    assert {tag for tag, _ in parts[1:]} == {TAG_CHUNK}
    assert max(len(payload) for _, payload in parts[1:]) <= chunk
    assert b"".join(payload for _, payload in parts[1:]) == frame[offset:]


def test_attachments_come_behind_the_frame_by_their_places() -> None:
    attachments = {0: MemoryBlob(b"abcde"), 2: MemoryBlob(b"xyz")}
    messages = list(pull_messages(b"envelope", b"frame", 0, 3, attachments))
    assert [(tag, bytes(payload)) for message in messages for tag, payload in pull_parts(message)] == [
        (TAG_ENVELOPE, b"envelope"),
        (TAG_CHUNK, b"fra"),
        (TAG_CHUNK, b"me"),
        (TAG_ATTACHMENT, b"\0abc"),
        (TAG_ATTACHMENT, b"\0de"),
        (TAG_ATTACHMENT, b"\2xyz"),
    ]


def test_no_message_with_an_attachment_is_too_large() -> None:
    attachment = MemoryBlob(bytes(CHUNK_BYTES + 1))
    messages = list(pull_messages(bytes(MAX_HEADER_BYTES), b"frame", attachments={0: attachment}))
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    assert len(messages) == 3


def test_a_stream_reads_of_its_frame_what_is_asked_for() -> None:
    reads: list[tuple[int, int]] = []

    class Watched(MemoryBlob):
        def read(self, offset: int, size: int) -> Buffer:
            reads.append((offset, size))
            return super().read(offset, size)

    stream = pull_messages(b"envelope", Watched(bytes(100)), 10, 30)
    assert reads == []
    for count in (1, 2, 3):
        next(stream)
        assert reads == [(10, 30), (40, 30), (70, 30)][:count]
    assert list(stream) == []


@pytest.mark.parametrize("data", [b"E", b"E\x05\x00\x00\x00ab", b"X\x00\x00\x00\x00", b"C\xff\xff\xff\xff"])
def test_damaged_parts_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(pull_parts(data))


def test_a_base_is_announced_in_bytes_of_one_length_and_frames_never_hold_it() -> None:
    announced = AnnouncedBase(1 << 40, bytes(range(32)), bytes(32))
    assert AnnouncedBase.decode(announced.encode()) == announced
    for wrong in (b"", announced.encode()[:-1], announced.encode() + b"\0"):
        with pytest.raises(FrameError):
            AnnouncedBase.decode(wrong)
    (message,) = base_messages(announced, MemoryBlob(b"bytes"), 2, 100)
    assert [bytes(payload) for _, payload in pull_parts(message, BASE_TAGS)] == [announced.encode(), b"tes"]
    with pytest.raises(FrameError):
        list(pull_parts(message))
