"""What nodes say to each other, as frozen dataclasses; to and from the bytes of `wire.proto`.

Reading is where a stranger's bytes become ours: every field is checked here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import fields
from . import wire_pb2 as wire
from .errors import EnvelopeError, Refusal
from .limits import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_MEMBERS, PROTOCOL_VERSION
from .members import Member, read_members


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a published log. Epoch 0 means that nothing is held."""

    epoch: int = 0
    version: int = 0
    chain: bytes = b""
    state: int = 0


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
            members=[member.message() for member in self.members],
            round=self.round,
            published=_point_out(self.published),
            held=_point_out(self.held),
            capabilities=self.capabilities,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """Read and check; raises EnvelopeError."""
        m = wire.HelloMessage()
        fields.parse(m, data)
        if m.protocol != PROTOCOL_VERSION:
            raise EnvelopeError(Refusal.UNSUPPORTED_VERSION, f"{m.protocol}, mine is {PROTOCOL_VERSION}")
        return cls(
            network=fields.name(m.network),
            run=fields.name(m.run),
            name=fields.name(m.name),
            address=fields.address(m.address),
            incarnation=m.incarnation,
            manifest=fields.digest(m.manifest),
            base=fields.digest(m.base),
            members=read_members(m.members),
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
    base: bytes = b""
    """Instead: the base file with this digest, from `offset` on."""

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
            base=self.base,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> PullRequest:
        """Read and check; raises EnvelopeError."""
        m = wire.PullRequest()
        fields.parse(m, data)
        return cls(
            network=fields.name(m.network),
            run=fields.name(m.run),
            name=fields.name(m.name),
            incarnation=m.incarnation,
            have=_point_in(m.have),
            wait_round=m.wait_round,
            wait_s=fields.number(m.wait_s),
            partial=fields.digest(m.partial, optional=True),
            offset=m.offset,
            snapshot=m.snapshot,
            base=fields.digest(m.base, optional=True),
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
    """What travels beside the frame, by kind, length and digest."""

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
        fields.parse(m, data)
        if m.protocol != PROTOCOL_VERSION:
            raise EnvelopeError(Refusal.UNSUPPORTED_VERSION, f"{m.protocol}, mine is {PROTOCOL_VERSION}")
        if len(m.edges) > MAX_MEMBERS or len(m.attachments) > MAX_ATTACHMENTS:
            raise EnvelopeError(Refusal.OVERSIZE, f"{len(m.edges)} edges, {len(m.attachments)} attachments")
        if not 0 <= m.from_version < m.version:
            raise EnvelopeError(Refusal.BAD_HEADER, f"from version {m.from_version} to {m.version}")
        return cls(
            network=fields.name(m.network),
            run=fields.name(m.run),
            view=m.view,
            sender=fields.name(m.sender),
            incarnation=m.incarnation,
            epoch=m.epoch,
            version=m.version,
            from_version=m.from_version,
            round=m.round,
            base=fields.digest(m.base),
            manifest=fields.digest(m.manifest),
            chain=fields.digest(m.chain),
            state=m.state,
            frame_bytes=m.frame_bytes,
            frame_sha256=fields.digest(m.frame_sha256),
            omega=min(1.0, fields.number(m.omega)),
            fresh=min(1.0, fields.number(m.fresh)),
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
        fields.parse(m, data)
        if len(m.signature) not in (0, 64):
            raise EnvelopeError(Refusal.BAD_SIGNATURE, f"{len(m.signature)} bytes")
        return cls(m.header, m.signature)


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
        return Edge(fields.name(m.peer), fields.share(m.weight))
    steps = fields.share(m.merged_weight), fields.share(m.merged_gamma), fields.share(m.merged_fresh)
    return Edge(fields.name(m.peer), fields.share(m.weight), Merged(m.merged_epoch, m.merged_version, *steps))


def _attachment(m: wire.Attachment) -> Attachment:
    if m.bytes > MAX_ATTACHMENT_BYTES:
        raise EnvelopeError(Refusal.OVERSIZE, f"attachment of {m.bytes} bytes")
    return Attachment(fields.name(m.kind), m.bytes, fields.digest(m.sha256))


def _point_out(point: Point) -> wire.Point | None:
    if not point.epoch:
        return None
    return wire.Point(epoch=point.epoch, version=point.version, chain=point.chain, state=point.state)


def _point_in(m: wire.Point) -> Point:
    if not m.epoch:
        return Point()
    return Point(m.epoch, m.version, fields.digest(m.chain), m.state)
