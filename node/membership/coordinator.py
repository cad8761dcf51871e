"""A member's connection to a coordinator: heartbeats go there, introductions come back.

A coordinator introduces members and its views are hints: who is missing in one is asked whether it lives. It says
nothing of members that are known here, nothing of ourselves, and removes nobody. However much it invents, what is
taken from it is bounded, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import replace
from random import Random
from typing import Literal

from ...protocol import fields
from ...protocol import wire_pb2 as wire
from ...protocol.addresses import parse_address
from ...protocol.clock import Clock
from ...protocol.errors import PeerError
from ...protocol.limits import MAX_VIEW_EPOCH
from ...protocol.members import Member, MemberState, read_members
from ...protocol.remote import channel
from ...protocol.rpc import Stub
from ..backoff import CAP_S, Backoff
from ..gather import Identity
from .roster import Roster

SERVICE = wire.DESCRIPTOR.services_by_name["Coordinator"]
CALL_S = 2.0
LEAVE_S = 0.5
WATCH_S = 300.0
"""A stream of views is opened anew after so long."""
SOONEST_S, LATEST_S = 0.2, 60.0
"""What we take as time between heartbeats, whatever it says."""
PACE_S = 0.5
"""Views come at most so often: a flood of them waits on the wire."""
INTRODUCTIONS = 1000
INTRODUCTIONS_S = 1.0
"""So many members at once, then one in this time: invented ones are held for dead and forgotten faster than they
could fill the roster, and in a mesh that is larger the members introduce each other."""
DOUBTS = 16
"""Members who are asked because one view lacks them."""


async def members_of(network: str, run: str, address: str) -> tuple[Member, ...]:
    """Return whom a coordinator names in a run; nobody if it does not answer."""
    request = wire.WatchRequest(network=network, run=run)
    async with channel(parse_address(address)) as line:
        with suppress(PeerError):
            async with aclosing(Stub(line, SERVICE).stream("Watch", request, CALL_S)) as views:
                async for view in views:
                    return tuple(member for member in read_members(view.members) if member.state.live)
    return ()


class CoordinatorClient:
    """Keeps the connection; what is learnt goes to the roster, hints at a death go to `doubt`."""

    def __init__(
        self,
        me: Identity,
        roster: Roster,
        address: str,
        clock: Clock,
        doubt: Callable[[str], None],
        round_: Callable[[], int],
        rng: Random,
    ) -> None:
        # round_: the round we are in; people see it in the coordinator's status.
        self._me = me
        self._roster = roster
        self._address = parse_address(address)
        self._clock = clock
        self._doubt = doubt
        self._round = round_
        self._rng = rng
        self._epoch = 0
        """The newest view's; 0: none has come yet."""
        self._listed: frozenset[str] = frozenset()
        """Whom the newest view names."""
        self._heartbeat_s = LATEST_S
        self._allowance = float(INTRODUCTIONS)
        self._refilled = clock.now()
        self.state: Literal["connected", "unreachable"] = "unreachable"
        self.trouble = ""
        """Why it was last not reached, or refused us."""
        self.suggestions: dict[str, str] = {}
        """What it suggested when we joined."""
        self.tried = asyncio.Event()
        """Set once it has answered or failed to: who is to be met through it is known, as far as it goes."""

    async def run(self) -> None:
        """Stay in touch until cancelled. A coordinator that is away, refuses or talks nonsense is tried again."""
        backoff = Backoff()
        while True:
            started = self._clock.now()
            try:
                await self._connect()
            except* PeerError as failures:
                self.trouble = str(failures.exceptions[0])
            finally:
                self.state = "unreachable"
                self.tried.set()
            now = self._clock.now()
            if now - started > CAP_S:
                backoff.reset()
            backoff.fail(now, self._rng)
            await self._clock.sleep(backoff.left_s(now))

    async def leave(self) -> None:
        """Say that we leave, if it ever heard of us and answers soon."""
        if not self._epoch:
            return
        request = wire.LeaveRequest(
            network=self._me.network,
            run=self._me.run,
            member=replace(self._roster.me, state=MemberState.LEFT).message(),
        )
        async with channel(self._address) as line:
            with suppress(PeerError):
                await Stub(line, SERVICE).call("Leave", request, LEAVE_S)

    async def _connect(self) -> None:
        """Join, or come back, and stay; ends by a PeerError, alone or in a group, or by being cancelled."""
        # A channel of its own each time: a broken one would keep us waiting for gRPC's back-off.
        async with channel(self._address) as line:
            stub = Stub(line, SERVICE)
            if self._epoch:
                await self._beat(stub)
            else:
                await self._join(stub)
            self.state, self.trouble = "connected", ""
            self.tried.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(stub), name="watch the coordinator")
                while True:
                    await self._clock.sleep(self._heartbeat_s * (0.9 + 0.2 * self._rng.random()))
                    await self._beat(stub)

    async def _join(self, stub: Stub) -> None:
        request = wire.JoinRequest(network=self._me.network, run=self._me.run, member=self._roster.me.message())
        reply: wire.JoinReply = await stub.call("Join", request, CALL_S)
        self.suggestions = dict(reply.suggestions)
        self._come_back_after(reply.heartbeat_s)
        self._take(reply.view)

    async def _beat(self, stub: Stub) -> None:
        """Say that we are there, and which view we hold: a coordinator that forgot it all goes on from there."""
        request = wire.HeartbeatRequest(
            network=self._me.network,
            run=self._me.run,
            member=self._roster.me.message(),
            epoch=self._epoch,
            round=self._round(),
        )
        reply: wire.HeartbeatReply = await stub.call("Heartbeat", request, CALL_S)
        self._come_back_after(reply.heartbeat_s)
        if reply.view.members:
            self._take(reply.view)

    async def _watch(self, stub: Stub) -> None:
        """Take every view as it comes. Where streams are refused or end, the heartbeats' views must do meanwhile."""
        request = wire.WatchRequest(network=self._me.network, run=self._me.run)
        while True:
            with suppress(PeerError):
                async with aclosing(stub.stream("Watch", request, WATCH_S)) as views:
                    async for view in views:
                        self._take(view)
                        await self._clock.sleep(PACE_S)
            await self._clock.sleep(self._heartbeat_s)

    def _come_back_after(self, seconds: float) -> None:
        self._heartbeat_s = min(LATEST_S, max(SOONEST_S, fields.number(seconds)))

    def _take(self, view: wire.MeshView) -> None:
        """Take up a view, unless it is older than another. Raises EnvelopeError."""
        if view.epoch < self._epoch:
            return
        claims = read_members(view.members)
        # Bounded, so that an honest coordinator outdoes what a lying one said.
        self._epoch = min(view.epoch, MAX_VIEW_EPOCH)
        listed = {claim.name: claim for claim in claims if claim.state.live and claim.name != self._me.name}
        missing = sorted(name for name in self._listed - listed.keys() if self._roster.get(name) is not None)
        self._listed = frozenset(listed)
        self._introduce(claim for claim in listed.values() if self._roster.get(claim.name) is None)
        for name in self._rng.sample(missing, min(DOUBTS, len(missing))):
            self._doubt(name)

    def _introduce(self, strangers: Iterable[Member]) -> None:
        """Let the roster learn of members that it does not know, as far as the allowance goes."""
        now = self._clock.now()
        self._allowance = min(INTRODUCTIONS, self._allowance + (now - self._refilled) / INTRODUCTIONS_S)
        self._refilled = now
        new = sorted(strangers)
        chosen = self._rng.sample(new, min(int(self._allowance), len(new)))
        self._allowance -= len(chosen)
        self._roster.learn(replace(claim, state=MemberState.ALIVE) for claim in chosen)
