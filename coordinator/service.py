"""The gRPC service: what nodes and people ask the coordinator."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from ..protocol import fields
from ..protocol import wire_pb2 as wire
from ..protocol.addresses import parse_address
from ..protocol.clock import Clock
from ..protocol.errors import ConfigError, EnvelopeError, PeerError, Refusal
from ..protocol.limits import CHUNK_BYTES, MAX_STREAMS_PER_PEER
from ..protocol.members import Member
from .pace import Pace
from .roster import Heard, Key, Mesh, Roster
from .saver import Saver

MAX_WATCHES = 4096
"""Streams at one time; who is refused one has the views of its heartbeats."""
PACE_S = 0.2
PACE_MEMBERS = 100
"""A watcher gets a view every PACE_S, or as much later as there are times so many members in it."""


class CoordinatorService:
    """Answers; the roster decides, the saver writes."""

    def __init__(
        self, roster: Roster, saver: Saver, clock: Clock, heartbeat_s: float, suggestions: Mapping[str, str]
    ) -> None:
        self._roster = roster
        self._saver = saver
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._suggestions = dict(suggestions)
        self._started = clock.now()
        self._pace = Pace(clock)
        self._watches: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.warnings: list[str] = []
        """What does not change while it runs."""

    async def join(self, request: wire.JoinRequest, context: Any) -> wire.JoinReply:
        """Take up a newcomer and tell it who else is there. Once answered, no kill forgets it."""
        async with self._counted("joins", context):
            mesh = self._roster.hear(_key(request), _claim(request.member), self._clock.now())
        await self._saver.saved()
        return wire.JoinReply(view=mesh.view(), heartbeat_s=self._heartbeat_s, suggestions=self._suggestions)

    async def heartbeat(self, request: wire.HeartbeatRequest, context: Any) -> wire.HeartbeatReply:
        """Take up that a member is still there; one that is not known is known by this."""
        async with self._counted("heartbeats", context):
            claim, round_ = _claim(request.member), max(-1, request.round)
            mesh = self._roster.hear(_key(request), claim, self._clock.now(), round_=round_, epoch=request.epoch)
        await self._saver.saved()
        view = mesh.view() if request.epoch != mesh.epoch else wire.MeshView(epoch=mesh.epoch)
        return wire.HeartbeatReply(view=view, heartbeat_s=self._heartbeat_s)

    async def leave(self, request: wire.LeaveRequest, context: Any) -> wire.LeaveReply:
        """Take up that a member leaves."""
        async with self._counted("leaves", context):
            self._roster.leave(_key(request), _claim(request.member), self._clock.now())
        await self._saver.saved()
        return wire.LeaveReply()

    async def watch(self, request: wire.WatchRequest, context: Any) -> AsyncIterator[wire.MeshView]:
        """Tell the view now and whenever it has changed, the newest at a time."""
        async with self._counted("watches", context), self._place(context.peer()):
            key = _key(request)
            mesh = self._roster.find(key)
            while self._roster.meshes.get(key) is mesh:
                changed = mesh.changed
                yield mesh.view()
                await self._clock.sleep(PACE_S * (1 + len(mesh.heard) / PACE_MEMBERS))
                await changed.wait()

    async def overview(self, _request: wire.OverviewRequest, context: Any) -> wire.OverviewReply:
        """Tell people everything, as far as one message holds it."""
        async with self._counted("overviews", context):
            return self._overview()

    def _overview(self) -> wire.OverviewReply:
        reply = wire.OverviewReply(
            software=version("peermerge"),
            uptime_s=self._clock.now() - self._started,
            suggestions=self._suggestions,
            warnings=self._warnings(),
        )
        room = CHUNK_BYTES
        for key in sorted(self._roster.meshes):
            mesh = self._roster.meshes[key]
            room -= mesh.size + 16 * len(mesh.heard)
            reply.meshes.append(self._mesh_overview(mesh, members=room >= 0))
        if room < 0:
            reply.warnings.append("there are more members than one message holds: some runs are shown without theirs")
        return reply

    @property
    def watchers(self) -> int:
        """Streams that are open."""
        return self._watches.total()

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._clock.now() - self._started

    def _warnings(self) -> list[str]:
        if not self._saver.refused:
            return self.warnings
        return [*self.warnings, f"DEGRADED: the roster is kept in memory alone: {self._saver.refused}"]

    def _mesh_overview(self, mesh: Mesh, *, members: bool) -> wire.MeshOverview:
        now = self._clock.now()
        heard = sorted(mesh.heard.values(), key=_name) if members else ()
        return wire.MeshOverview(
            network=mesh.key[0],
            run=mesh.key[1],
            epoch=mesh.epoch,
            members=[
                wire.MemberOverview(member=each.member.message(), silent_s=max(0.0, now - each.at), round=each.round)
                for each in heard
            ],
        )

    @asynccontextmanager
    async def _counted(self, what: str, context: Any) -> AsyncIterator[None]:
        try:
            await self._pace.keep(context.peer())
            yield
        except PeerError as error:
            self.refusals[error.refusal.name] += 1
            raise
        self._roster.counts[what] += 1

    @asynccontextmanager
    async def _place(self, connection: str) -> AsyncIterator[None]:
        if self._watches[connection] >= MAX_STREAMS_PER_PEER or self.watchers >= MAX_WATCHES:
            raise PeerError(Refusal.RATE_LIMITED, f"{self.watchers} streams are open")
        self._watches[connection] += 1
        try:
            yield
        finally:
            self._watches[connection] -= 1
            if not self._watches[connection]:
                del self._watches[connection]


def _key(request: wire.JoinRequest | wire.HeartbeatRequest | wire.LeaveRequest | wire.WatchRequest) -> Key:
    return fields.name(request.network), fields.name(request.run)


def _claim(message: wire.Member) -> Member:
    """Check and return what somebody says of itself."""
    claim = Member.read(message)
    try:
        address = parse_address(claim.address)
    except ConfigError as error:
        raise EnvelopeError(Refusal.BAD_HEADER, str(error)) from None
    if address.is_wildcard:
        raise EnvelopeError(Refusal.BAD_HEADER, f"{address} is nothing that can be dialled")
    return claim


def _name(heard: Heard) -> str:
    return heard.member.name
