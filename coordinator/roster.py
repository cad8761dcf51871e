"""Who was heard of: meshes by network and run, their members, and the views that follow.

A member is in the view from its first word until it leaves or is silent for too long; that it is silent says
nothing of its death and only means that newcomers are not sent to it. The roster does no I/O and reads no clock:
every call is told the time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..protocol.errors import EnvelopeError, PeerError, Refusal
from ..protocol.limits import CHUNK_BYTES, MAX_MEMBERS, MAX_VIEW_EPOCH
from ..protocol.members import Member, MemberState
from ..protocol.wire_pb2 import MeshView

MAX_MESHES = 64

Key = tuple[str, str]
"""Network and run."""


@dataclass(slots=True)
class Heard:
    """What a member last said of itself, and when."""

    member: Member
    at: float
    round: int = -1
    """-1: it did not say."""


@dataclass(slots=True)
class Mesh:
    """The members of one run, those who left a moment ago included."""

    key: Key
    epoch: int = 0
    heard: dict[str, Heard] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when this epoch ends; the next has another."""
    size: int = 0
    """Bytes of the members in a view."""
    _view: MeshView | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is there, by name."""
        return tuple(sorted(heard.member for heard in tuple(self.heard.values()) if heard.member.state.live))

    def view(self) -> MeshView:
        """Return the view as it travels; it is not to be changed."""
        if self._view is None:
            claims = sorted(heard.member for heard in self.heard.values())
            self._view = MeshView(epoch=self.epoch, members=[claim.message() for claim in claims])
        return self._view

    def put(self, heard: Heard) -> bool:
        """Take up what was heard; return whether it is another claim than before, which makes a new view."""
        before = self.heard.get(heard.member.name)
        if before is not None and before.member == heard.member:
            self.heard[heard.member.name] = heard
            return False
        size = self.size + _size(heard.member) - (_size(before.member) if before else 0)
        if before is None and len(self.heard) >= MAX_MEMBERS:
            raise PeerError(Refusal.BUDGET_EXCEEDED, f"{MAX_MEMBERS} members are all that a run may have")
        if size > CHUNK_BYTES:
            raise PeerError(Refusal.BUDGET_EXCEEDED, "the members of this run fill a whole message")
        self.size = size
        self.heard[heard.member.name] = heard
        self.advance()
        return True

    def drop(self, names: Iterable[str]) -> None:
        """Forget members."""
        for name in names:
            self.size -= _size(self.heard.pop(name).member)
        self.advance()

    def advance(self, past: int = 0) -> None:
        """Begin an epoch later than this one and than `past`, and wake who waits for it."""
        self.epoch = max(self.epoch, past) + 1
        self._view = None
        self.changed.set()
        self.changed = asyncio.Event()


class Roster:
    """All meshes. Refuses by raising PeerError."""

    def __init__(self, heartbeat_s: float, expire_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._expire_s = expire_s
        self.meshes: dict[Key, Mesh] = {}
        self.unsaved: set[Key] = set()
        """Meshes of which the disk does not know all."""
        self.counts: Counter[str] = Counter()

    def restore(self, mesh: Mesh) -> None:
        """Take up a mesh that was saved; its members were heard of as of now."""
        self.meshes[mesh.key] = mesh

    def find(self, key: Key) -> Mesh:
        """Return a mesh that is there."""
        if key not in self.meshes:
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"nobody of {'/'.join(key)} has joined")
        return self.meshes[key]

    def hear(self, key: Key, claim: Member, now: float, *, round_: int = -1, epoch: int = 0) -> Mesh:
        """Take up a member's word that it is there: its first one, or one that goes on from another coordinator's.

        The last word holds, except that a name in use at another address is not given away.
        """
        if claim.state is not MemberState.ALIVE:
            raise EnvelopeError(Refusal.BAD_HEADER, f"{claim.name} joins as {claim.state.name}")
        mesh = self._mesh(key)
        before = mesh.heard.get(claim.name)
        if before is not None and before.member.age >= claim.age:
            if before.member.state is MemberState.LEFT:
                return mesh  # a heartbeat that was on its way when the member left
            if before.member.address != claim.address and now - before.at < 1.5 * self._heartbeat_s:
                raise EnvelopeError(Refusal.DUPLICATE_ID, f"{claim.name} is at {before.member.address}")
        if mesh.put(Heard(claim, now, round_)):
            self.unsaved.add(key)
        if min(epoch, MAX_VIEW_EPOCH) > mesh.epoch:
            mesh.advance(min(epoch, MAX_VIEW_EPOCH))
            self.unsaved.add(key)
        return mesh

    def leave(self, key: Key, claim: Member, now: float) -> None:
        """Take up a member's word that it leaves: the view says so until it would have expired."""
        mesh = self.find(key)
        before = mesh.heard.get(claim.name)
        if before is None or before.member.address != claim.address:
            raise EnvelopeError(Refusal.UNKNOWN_SENDER, f"{claim.name} at {claim.address} is no member")
        if before.member.state.live:
            latest = max(claim, before.member, key=_age)
            mesh.put(Heard(replace(latest, state=MemberState.LEFT), now, before.round))
            self.unsaved.add(key)

    def expire(self, now: float) -> None:
        """Drop who has been silent for too long."""
        for key, mesh in self.meshes.items():
            silent = [name for name, heard in mesh.heard.items() if now - heard.at > self._expire_s]
            if silent:
                self.counts["expiries"] += sum(mesh.heard[name].member.state.live for name in silent)
                mesh.drop(silent)
                self.unsaved.add(key)

    def forgive(self, seconds: float) -> None:
        """Add to everybody's time: we slept ourselves, and what they said meanwhile waits to be read."""
        for mesh in self.meshes.values():
            for heard in mesh.heard.values():
                heard.at += seconds

    def _mesh(self, key: Key) -> Mesh:
        if key not in self.meshes:
            if len(self.meshes) >= MAX_MESHES:
                self._make_room()
            self.meshes[key] = Mesh(key)
        return self.meshes[key]

    def _make_room(self) -> None:
        """Forget a run without members; should one of them come back, it tells its epoch."""
        empty = next((key for key, mesh in self.meshes.items() if not mesh.heard), None)
        if empty is None:
            raise PeerError(Refusal.BUDGET_EXCEEDED, f"{MAX_MESHES} runs are all that I serve")
        self.meshes.pop(empty).changed.set()
        self.unsaved.add(empty)


def _age(member: Member) -> tuple[int, int]:
    return member.age


def _size(member: Member) -> int:
    return member.message().ByteSize() + 4
