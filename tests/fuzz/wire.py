"""Messages from strangers: valid ones of every kind, damage to their fields and bytes, and what must hold of any."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.errors import EnvelopeError, FrameError
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.members import Gossip, Member, MemberState
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
from peermerge.protocol.parts import pull_messages, pull_parts
from peermerge.protocol.statistics import Statistics, pack

from .mutate import BYTES, INTERESTING, WIDE
from .paths import ACCEPTED, Broken

DIGEST = bytes(range(32))
POINT = Point(2, 7, DIGEST, 12345)
WHO: dict[str, Any] = {"network": "net", "run": "run-1"}
HELLO = Hello(
    **WHO,
    name="a",
    address="127.0.0.1:50051",
    incarnation=3,
    manifest=DIGEST,
    base=DIGEST,
    members=(Member("a", "127.0.0.1:50051"), Member("b", "[::1]:2")),
    round=5,
    published=POINT,
    held=POINT,
    capabilities=("zstd",),
)
GOSSIP = Gossip(
    **WHO,
    name="a",
    round=5,
    target="c",
    news=(Member("a", "127.0.0.1:50051", 3, 1), Member("b", "[::1]:2", 1, 0, MemberState.SUSPECT)),
    roster=1 << 63,
    all=True,
    doubts=("b",),
)
REQUEST = PullRequest(
    **WHO, name="b", incarnation=1, have=POINT, wait_round=4, wait_s=2.5, partial=DIGEST, offset=1 << 20
)
HEADER = Header(
    **WHO,
    view=1 << 63,
    sender="a",
    incarnation=3,
    epoch=2,
    version=8,
    from_version=7,
    round=5,
    base=DIGEST,
    manifest=DIGEST,
    chain=DIGEST,
    state=999,
    frame_bytes=4096,
    frame_sha256=DIGEST,
    omega=0.5,
    fresh=0.75,
    edges=(Edge("b", 0.25), Edge("c", 0.5, Merged(1, 6, 0.5, 0.25, 0.125))),
    local_steps=10,
    samples=320,
    metrics={"loss": 0.5},
    attachments=(Attachment("fisher", 77, DIGEST),),
)
ENVELOPE = Envelope(HEADER.encode(), bytes(64))

KINDS: dict[bytes, tuple[type[Hello | Gossip | PullRequest | Header | Envelope], type[Message], bytes]] = {
    b"H": (Hello, wire.HelloMessage, HELLO.encode()),
    b"G": (Gossip, wire.GossipMessage, GOSSIP.encode()),
    b"R": (PullRequest, wire.PullRequest, REQUEST.encode()),
    b"h": (Header, wire.Header, HEADER.encode()),
    b"E": (Envelope, wire.Envelope, ENVELOPE.encode()),
}
"""What reads a kind of message, what protobuf calls it, and a valid one."""
STREAM = b"S"
"""The kind of a message of a Pull stream."""
STATISTICS = b"a"
"""The kind of an attachment: a byte that says which statistics, and then these."""
MEASURED = manifest_of([("weight", (2, 3), "float32", False), ("bias", (2,), "float32", True)])
_MEASURES = {"second-moment": 5, "fisher": 5, "gram": 6}
ATTACHMENTS = {kind: pack(kind, {0: np.ones(size, np.float32)}, MEASURED) for kind, size in _MEASURES.items()}
RAW: dict[bytes, tuple[bytes, ...]] = {
    STREAM: (
        *(b"".join(pull_messages(ENVELOPE.encode(), bytes(size))) for size in (0, 10, 700)),
        b"".join(pull_messages(ENVELOPE.encode(), bytes(10), attachments={0: MemoryBlob(bytes(77))})),
    ),
    STATISTICS: tuple(bytes([number]) + data for number, data in enumerate(ATTACHMENTS.values())),
}
"""Valid inputs of the kinds that are no protobuf messages."""
EVERY_KIND = (*KINDS, *RAW)


def message(rng: Random) -> tuple[bytes, bytes]:
    """Return the kind and the bytes of a damaged message."""
    kind = rng.choice(EVERY_KIND)
    data = bytearray(rng.choice(RAW[kind]) if kind in RAW else damaged_field(KINDS[kind][1], KINDS[kind][2], rng))
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        rng.choice(BYTES)(data, rng)
    return kind, bytes(data)


def read(kind: bytes, data: bytes) -> str:
    """Read a message of a kind; return `ACCEPTED` or the refusal's name. Raises Broken, or whatever is not handled."""
    if kind == STREAM:
        return read_stream(data)
    if kind == STATISTICS:
        return read_statistics(data)
    reader = KINDS[kind][0]
    try:
        understood = reader.decode(data)
    except EnvelopeError as error:
        return error.refusal.name
    if reader.decode(understood.encode()) != understood:
        raise Broken(f"{reader.__name__}: sent on, it says something else")
    return ACCEPTED


def read_stream(data: bytes) -> str:
    """Split a message of a Pull stream."""
    try:
        parts = list(pull_parts(data))
    except FrameError as error:
        return error.refusal.name
    if sum(5 + len(payload) for _, payload in parts) != len(data):
        raise Broken("parts lose or invent bytes")
    return ACCEPTED


def read_statistics(data: bytes) -> str:
    """Read an attachment as a merge would."""
    kind = tuple(ATTACHMENTS)[data[0] % len(ATTACHMENTS)] if data else "gram"
    try:
        opened = Statistics.open(data[1:], kind, MEASURED)
    except FrameError as error:
        return error.refusal.name
    if pack(kind, {t: opened.values(t) for t in opened}, MEASURED) != data[1:]:
        raise Broken("packed anew they are others")
    return ACCEPTED


# Damage to fields


def damaged_field(kind: type[Message], data: bytes, rng: Random) -> bytes:
    """Return a message with one field, at any depth, set to another value."""
    whole = kind.FromString(data)
    place: Any = whole
    field = rng.choice(place.DESCRIPTOR.fields)
    while field.type == Field.TYPE_MESSAGE and "Entry" not in field.message_type.name:
        inner = getattr(place, field.name)
        place = inner.add() if field.is_repeated else inner
        field = rng.choice(place.DESCRIPTOR.fields)
    if field.type == Field.TYPE_MESSAGE:
        getattr(place, field.name)[rng.choice(("", "loss", "\0"))] = rng.choice(FLOATS)
    elif field.is_repeated:
        getattr(place, field.name).append(value(field, rng))
    else:
        setattr(place, field.name, value(field, rng))
    return whole.SerializeToString()


FLOATS = (0.0, -0.0, 1.0, -1.0, 0.3, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "-a", "A", "../../x", "a\0b", "é", "\u202e", "a\n", "x" * 63, "x" * 64, "x" * 300)


def value(field: Any, rng: Random) -> object:
    """Return a value that fits the type of a field and perhaps nothing else."""
    whole = rng.choice((*INTERESTING, *WIDE))
    values: dict[int, Callable[[], object]] = {
        Field.CPPTYPE_UINT32: lambda: whole % (1 << 32),
        Field.CPPTYPE_UINT64: lambda: whole,
        Field.CPPTYPE_INT64: lambda: (whole % (1 << 64)) - (1 << 63),
        Field.CPPTYPE_INT32: lambda: whole % (1 << 31),
        Field.CPPTYPE_ENUM: lambda: rng.choice((0, 1, 2, 3, 4, -1)),
        Field.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        Field.CPPTYPE_FLOAT: lambda: rng.choice(FLOATS),
        Field.CPPTYPE_DOUBLE: lambda: rng.choice((*FLOATS, 1e300)),
    }
    if field.cpp_type == Field.CPPTYPE_STRING:
        return (
            rng.choice(TEXTS) if field.type == Field.TYPE_STRING else rng.randbytes(rng.choice((0, 1, 31, 32, 33, 64)))
        )
    return values[field.cpp_type]()
