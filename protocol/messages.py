"""What nodes say to each other, as frozen dataclasses; to and from the bytes of `wire.proto`.

Reading is where a stranger's bytes become ours: every field is checked here, once.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from . import wire_pb2 as wire
from .errors import EnvelopeError, FrameError, Refusal
from .limits import (
    CHUNK_BYTES,
    MAX_ADDRESS,
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_HEADER_BYTES,
    MAX_MEMBERS,
    NODE_NAME,
    PROTOCOL_VERSION,
)

_NAME = re.compile(NODE_NAME)
DIGEST = 32


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a published log. Epoch 0 means that nothing is held."""

    epoch: int = 0
    version: int = 0
    chain: bytes = b""
    state: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A node's name and where it is reached."""

    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who a node is and what it has: exchanged before any payload."""

    network: str
    run: str
    name: str
    address: str
    incarnation: int
    manifest: bytes
    base: bytes
    members: tuple[Member, ...]
    round: int
    published: Point
    held: Point = Point()
    protocol: int = PROTOCOL_VERSION
    capabilities: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Serialize."""
        return wire.HelloMessage(
            protocol=self.protocol,
            network=self.network,
            run=self.run,
            name=self.name,
            address=self.address,
            incarnation=self.incarnation,
            manifest=self.manifest,
            base=self.base,
            members=[wire.Member(name=m.name, address=m.address) for m in self.members],
            round=self.round,
            published=_point_out(self.published),
            held=_point_out(self.held),
            capabilities=self.capabilities,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """Read and check; raises EnvelopeError."""
        m = wire.HelloMessage()
        _parse(m, data)
        if m.protocol != PROTOCOL_VERSION:
            raise EnvelopeError(Refusal.UNSUPPORTED_VERSION, f"{m.protocol}, mine is {PROTOCOL_VERSION}")
        if len(m.members) > MAX_MEMBERS:
            raise EnvelopeError(Refusal.OVERSIZE, f"{len(m.members)} members")
        return cls(
            network=_name(m.network),
            run=_name(m.run),
            name=_name(m.name),
            address=_address(m.address),
            incarnation=m.incarnation,
            manifest=_digest(m.manifest),
            base=_digest(m.base),
            members=tuple(Member(_name(x.name), _address(x.address)) for x in m.members),
            round=m.round,
            published=_point_in(m.published),
            held=_point_in(m.held),
            capabilities=tuple(m.capabilities),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """Ask for what is new in the receiver's log since `have`; wait for `wait_round` up to `wait_s`."""

    network: str
    run: str
    name: str
    incarnation: int
    have: Point
    wait_round: int = -1
    wait_s: float = 0.0
    partial: bytes = b""
    offset: int = 0
    snapshot: bool = False

    def encode(self) -> bytes:
        """Serialize."""
        return wire.PullRequest(
            network=self.network,
            run=self.run,
            name=self.name,
            incarnation=self.incarnation,
            have=_point_out(self.have),
            wait_round=self.wait_round,
            wait_s=self.wait_s,
            partial=self.partial,
            offset=self.offset,
            snapshot=self.snapshot,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> PullRequest:
        """Read and check; raises EnvelopeError."""
        m = wire.PullRequest()
        _parse(m, data)
        return cls(
            network=_name(m.network),
            run=_name(m.run),
            name=_name(m.name),
            incarnation=m.incarnation,
            have=_point_in(m.have),
            wait_round=m.wait_round,
            wait_s=_number(m.wait_s),
            partial=_digest(m.partial, optional=True),
            offset=m.offset,
            snapshot=m.snapshot,
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """How a neighbour's state was merged: which version, and the steps both ends of the edge know."""

    epoch: int
    version: int
    weight: float
    gamma: float
    fresh: float


@dataclass(frozen=True, slots=True)
class Edge:
    """A neighbour as the sender sees it: the weight it offers this round, and what it merged of it last."""

    peer: str
    weight: float
    merged: Merged | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """Statistics that follow the frame, by kind, length and digest."""

    kind: str
    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The signed header that carries a frame."""

    network: str
    run: str
    view: int
    sender: str
    incarnation: int
    epoch: int
    version: int
    from_version: int
    round: int
    base: bytes
    manifest: bytes
    chain: bytes
    state: int
    frame_bytes: int
    frame_sha256: bytes
    omega: float = 1.0
    fresh: float = 1.0
    edges: tuple[Edge, ...] = ()
    local_steps: int = 0
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    protocol: int = PROTOCOL_VERSION

    @property
    def point(self) -> Point:
        """Where in the sender's log this frame leads."""
        return Point(self.epoch, self.version, self.chain, self.state)

    def encode(self) -> bytes:
        """Serialize; these very bytes are signed and travel."""
        return wire.Header(
            protocol=self.protocol,
            network=self.network,
            run=self.run,
            view=self.view,
            sender=self.sender,
            incarnation=self.incarnation,
            epoch=self.epoch,
            version=self.version,
            from_version=self.from_version,
            round=self.round,
            base=self.base,
            manifest=self.manifest,
            chain=self.chain,
            state=self.state,
            frame_bytes=self.frame_bytes,
            frame_sha256=self.frame_sha256,
            omega=self.omega,
            fresh=self.fresh,
            edges=[_edge_out(e) for e in self.edges],
            local_steps=self.local_steps,
            samples=self.samples,
            metrics=dict(self.metrics),
            attachments=[wire.Attachment(kind=a.kind, bytes=a.length, sha256=a.sha256) for a in self.attachments],
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read and check; raises EnvelopeError."""
        m = wire.Header()
        _parse(m, data)
        if m.protocol != PROTOCOL_VERSION:
            raise EnvelopeError(Refusal.UNSUPPORTED_VERSION, f"{m.protocol}, mine is {PROTOCOL_VERSION}")
        if len(m.edges) > MAX_MEMBERS or len(m.attachments) > MAX_ATTACHMENTS:
            raise EnvelopeError(Refusal.OVERSIZE, f"{len(m.edges)} edges, {len(m.attachments)} attachments")
        if not 0 <= m.from_version < m.version:
            raise EnvelopeError(Refusal.BAD_HEADER, f"from version {m.from_version} to {m.version}")
        return cls(
            network=_name(m.network),
            run=_name(m.run),
            view=m.view,
            sender=_name(m.sender),
            incarnation=m.incarnation,
            epoch=m.epoch,
            version=m.version,
            from_version=m.from_version,
            round=m.round,
            base=_digest(m.base),
            manifest=_digest(m.manifest),
            chain=_digest(m.chain),
            state=m.state,
            frame_bytes=m.frame_bytes,
            frame_sha256=_digest(m.frame_sha256),
            omega=min(1.0, _number(m.omega)),
            fresh=min(1.0, _number(m.fresh)),
            edges=tuple(_edge_in(e) for e in m.edges),
            local_steps=m.local_steps,
            samples=m.samples,
            metrics={k: v for k, v in m.metrics.items() if math.isfinite(v)},
            attachments=tuple(_attachment(a) for a in m.attachments),
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A header's very bytes, and their signature (empty until identity is configured)."""

    header: bytes
    signature: bytes = b""

    def encode(self) -> bytes:
        """Serialize."""
        return wire.Envelope(header=self.header, signature=self.signature).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Read and check sizes; raises EnvelopeError."""
        m = wire.Envelope()
        _parse(m, data)
        if len(m.signature) not in (0, 64):
            raise EnvelopeError(Refusal.BAD_SIGNATURE, f"{len(m.signature)} bytes")
        return cls(m.header, m.signature)


# ---- The parts of a Pull stream: tag, length, payload; several may share one message. ----

TAG_ENVELOPE = b"E"
TAG_CHUNK = b"C"
_PART = struct.Struct("<cI")


def pull_messages(envelope: bytes, frame: bytes | memoryview, offset: int = 0) -> Iterator[bytes]:
    """Yield the messages that carry one envelope and its frame from `offset` on, at most a chunk each."""
    head = _PART.pack(TAG_ENVELOPE, len(envelope)) + envelope
    view = memoryview(frame)[offset:]
    for start in range(0, max(1, len(view)), CHUNK_BYTES):
        chunk = view[start : start + CHUNK_BYTES]
        yield b"".join((head, _PART.pack(TAG_CHUNK, len(chunk)), chunk))
        head = b""


def pull_parts(message: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Split one message of a Pull stream into (tag, payload); raises FrameError."""
    view = memoryview(message)
    while view:
        if len(view) < _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's head")
        tag, length = _PART.unpack_from(view)
        if tag not in (TAG_ENVELOPE, TAG_CHUNK):
            raise FrameError(Refusal.BAD_HEADER, f"part tag {tag!r}")
        if length > len(view) - _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's payload")
        yield tag, view[_PART.size : _PART.size + length]
        view = view[_PART.size + length :]


# ---- Checks of single fields. ----


def _parse(message: wire.HelloMessage | wire.PullRequest | wire.Header | wire.Envelope, data: bytes) -> None:
    if len(data) > MAX_HEADER_BYTES:
        raise EnvelopeError(Refusal.OVERSIZE, f"{len(data)} bytes")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise EnvelopeError(Refusal.BAD_HEADER, "not a message of this protocol") from error


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise EnvelopeError(Refusal.BAD_HEADER, f"name {text[:80]!r}")
    return text


def _address(text: str) -> str:
    if len(text) > MAX_ADDRESS or not text.isprintable():
        raise EnvelopeError(Refusal.BAD_HEADER, "address")
    return text


def _digest(data: bytes, *, optional: bool = False) -> bytes:
    if len(data) != DIGEST and not (optional and not data):
        raise EnvelopeError(Refusal.BAD_HEADER, f"digest of {len(data)} bytes")
    return data


def _number(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise EnvelopeError(Refusal.NON_FINITE, repr(value))
    return value


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise EnvelopeError(Refusal.BAD_HEADER, f"weight {value!r}")
    return value


def _edge_out(edge: Edge) -> wire.Edge:
    if edge.merged is None:
        return wire.Edge(peer=edge.peer, weight=edge.weight)
    return wire.Edge(
        peer=edge.peer,
        weight=edge.weight,
        merged_epoch=edge.merged.epoch,
        merged_version=edge.merged.version,
        merged_weight=edge.merged.weight,
        merged_gamma=edge.merged.gamma,
        merged_fresh=edge.merged.fresh,
    )


def _edge_in(m: wire.Edge) -> Edge:
    if not m.merged_epoch:
        return Edge(_name(m.peer), _share(m.weight))
    steps = _share(m.merged_weight), _share(m.merged_gamma), _share(m.merged_fresh)
    return Edge(_name(m.peer), _share(m.weight), Merged(m.merged_epoch, m.merged_version, *steps))


def _attachment(m: wire.Attachment) -> Attachment:
    if m.bytes > MAX_ATTACHMENT_BYTES:
        raise EnvelopeError(Refusal.OVERSIZE, f"attachment of {m.bytes} bytes")
    return Attachment(_name(m.kind), m.bytes, _digest(m.sha256))


def _point_out(point: Point) -> wire.Point | None:
    if not point.epoch:
        return None
    return wire.Point(epoch=point.epoch, version=point.version, chain=point.chain, state=point.state)


def _point_in(m: wire.Point) -> Point:
    if not m.epoch:
        return Point()
    return Point(m.epoch, m.version, _digest(m.chain), m.state)
