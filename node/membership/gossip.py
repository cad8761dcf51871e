"""Failure detection and dissemination without any server: SWIM, with Lifeguard's awareness of one's own health.

Every `probe_s` a member asks one other whether it lives. Who does not answer is asked through others, then
suspected, and held for dead unless it denies that in time. What is new travels on these very messages. Every
`sync_s` two members compare a hash of all they know and exchange everything where it differs, and one of those held
for dead is tried again: so partitions heal. Das, Gupta, Motivala: "SWIM" (2002); Dadgar et al.: "Lifeguard" (2018).

A node that hears nobody condemns everybody. So who is held for dead is heard about itself and about us alone, and
nobody is taken for dead on hearsay: a member that we did not suspect yet is suspected.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

from ...protocol.clock import Clock
from ...protocol.errors import ConfigError, EnvelopeError, PeerError, Refusal, TransportError
from ...protocol.limits import MAX_HEADER_BYTES
from ...protocol.members import Gossip, Member, MemberState
from ...protocol.transport import Transport
from ..config import MembershipConfig
from ..gather import Identity
from ..peers import Peers
from .news import News
from .returns import Returns
from .roster import Roster
from .suspicion import Suspicion

HELPERS = 3
"""Members who ask on our behalf, and whom we tell at once whom we doubt, or that we live after all."""
NEWS = 8
"""Claims on one message besides our own, and doubts: its size does not grow with the mesh."""
RETELL = 3
"""A claim is told RETELL * log2(members) times."""
MAX_HEALTH = 8
MAX_RELAYS = 16
LEAVE_S = 0.5
LEAVE_TO = 16
"""Members who are told by ourselves that we leave; they tell the rest."""
ASKERS = 8
"""So many members, on average, ask a suspect themselves when they hear of it."""
FORGET_S = 3600.0
"""The dead are tried again for so long."""
ALL_BYTES = MAX_HEADER_BYTES - 4096
"""Room for claims in a message that tells everything. Where they are more, each message tells another part."""
ALL_S = 0.1
"""Everything is told to who asks for it so often at most: it costs far more than asking."""
LIVING = frozenset({Refusal.UNKNOWN_SENDER, Refusal.RATE_LIMITED, Refusal.BUDGET_EXCEEDED})
"""Refusals that only the member itself gives: whoever refuses us for these lives."""


class Gossiper:
    """One member's part: `run` asks, `answer` answers, and the roster says what came of it."""

    def __init__(
        self,
        me: Identity,
        roster: Roster,
        transport: Transport,
        clock: Clock,
        peers: Peers,
        settings: MembershipConfig,
        rng: Random,
        round_: Callable[[], int] = lambda: 0,
    ) -> None:
        # round_: the round we are in; it is told with every message.
        self._me = me
        self._roster = roster
        self._transport = transport
        self._clock = clock
        self._peers = peers
        self._settings = settings
        self._rng = rng
        self._round = round_
        self._tasks: asyncio.TaskGroup | None = None
        self._news = News()
        self._returns = Returns()
        self._order: list[str] = []
        """Whom to ask next, from the end."""
        self._asked: set[str] = set()
        """Members with a probe of ours under way; our own name while we call somebody who goes by it."""
        self._doubted: dict[str, None] = {}
        """Those who did not answer us, until they do."""
        self._suspicions: dict[str, Suspicion] = {}
        self._went: dict[str, float] = {}
        """When the dead and departed went."""
        self._relays = 0
        self._denying = False
        self._told_all = -math.inf
        self.health = 0
        """0: we keep up. Each sign that we are slow ourselves raises it and makes us slower to suspect."""
        self.bytes_in = 0
        self.bytes_out = 0
        roster.watch(self._changed)
        roster.may_return = lambda: self._returns.may(clock.now())

    async def run(self) -> None:
        """Probe and compare until cancelled.

        Raises what a task of ours died of, and ConfigError if another process keeps our name.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = group
                try:
                    self._yield_name()
                    for member in self._roster.view().members:
                        if member.state is MemberState.SUSPECT:
                            self._suspect(member)
                    self._start(self._probe_all())
                    await self._sync_all()
                finally:
                    self._tasks = None
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    def doubt(self, name: str) -> None:
        """Ask a member now: something hints at its death. Without `run` under way nothing happens."""
        member = self._roster.get(name)
        if member is not None and member.state.live and name != self._me.name:
            self._start(self._probe(member))

    async def leave(self) -> None:
        """Tell some members that we leave; they tell the rest."""
        self._roster.leave()
        await self._tell(LEAVE_TO, LEAVE_S)

    async def answer(self, request: bytes) -> bytes:
        """Answer a serialized Gossip. Raises PeerError to refuse, or if the member it asks about did not answer us."""
        asked = Gossip.decode(request)
        self._check(asked)
        if asked.name == self._me.name:
            raise self._met(asked)
        if self._roster.get(asked.name) is None:
            raise EnvelopeError(Refusal.UNKNOWN_SENDER, f"{asked.name}: say Hello first")
        self._take(asked, len(request))
        if asked.target:
            await self._relay(asked.target)
        everything = asked.all and self._clock.now() >= self._told_all + ALL_S
        if everything:
            self._told_all = self._clock.now()
        reply = self._message(asked.name, everything=everything).encode()
        self.bytes_out += len(reply)
        return reply

    # ---- Asking. ----

    async def _probe_all(self) -> None:
        """Ask one member after the other, in an order that is drawn anew each time it is through."""
        while True:
            await self._clock.sleep(self._patience * (0.9 + 0.2 * self._rng.random()))
            if (member := self._next()) is not None:
                self._start(self._probe(member))

    def _next(self) -> Member | None:
        while self._order:
            member = self._roster.get(self._order.pop())
            if member is not None and member.state.live and member.name not in self._asked:
                return member
        self._order = [name for name in self._roster.view().names if name != self._me.name]
        self._rng.shuffle(self._order)
        return None if not self._order else self._roster.get(self._order.pop())

    async def _probe(self, member: Member) -> None:
        """Ask a member, also through others; suspect it if nobody reaches it."""
        if member.name in self._asked:
            return
        self._asked.add(member.name)
        patience, started = self._patience, self._clock.now()
        try:
            reached = await self._reaches(member, patience)
        finally:
            self._asked.discard(member.name)
        now = self._roster.get(member.name)
        if reached:
            self._doubted.pop(member.name, None)
        elif self._late(started, 1.5 * patience):
            self._worsen()  # we were asleep ourselves: that it did not answer says nothing
        elif now is not None and now.age == member.age:  # else it spoke meanwhile
            news = member.name not in self._doubted
            self._doubted[member.name] = None
            self._roster.judge(member.name, MemberState.SUSPECT)
            if suspicion := self._suspicions.get(member.name):
                suspicion.witness(self._me.name)
            if news:
                await self._tell(HELPERS, patience)

    async def _reaches(self, member: Member, patience: float) -> bool:
        """Ask directly; who is silent for half the patience is asked through others too, and may still answer."""
        silent = 0

        async def ask(helper: Member) -> bool:
            nonlocal silent
            try:
                await self._ask(helper, patience, member.name)
            except PeerError as error:
                silent += error.refusal is Refusal.DEADLINE
                return False
            return True

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(self._answers(member, 1.5 * patience))]
            await asyncio.wait(asking, timeout=patience / 2)
            reached = asking[0].done() and asking[0].result()
            if not reached:
                asking += [group.create_task(ask(helper)) for helper in self._some(HELPERS, but=member.name)]
                reached = await _any(asking)
            for task in asking:
                task.cancel()
        if not reached and silent:
            # A helper that fails says so. One that does not even do that means that we are cut off ourselves.
            self._worsen()
        return reached

    async def _answers(self, member: Member, patience: float) -> bool:
        """Ask directly. Who refuses the connection is asked once more: the old one may just have broken."""
        deadline = self._clock.now() + patience
        for _ in range(2):
            try:
                await self._ask(member, deadline - self._clock.now())
            except PeerError as error:
                if error.refusal is not Refusal.TRANSPORT:
                    return error.refusal in LIVING
            else:
                self.health = max(0, self.health - 1)
                return True
        return False

    async def _ask(self, member: Member, timeout_s: float, target: str = "", *, everything: bool = False) -> Gossip:
        """Exchange one message; take up the answer. Raises PeerError."""
        request = self._message(member.name, target=target, everything=everything).encode()
        self.bytes_out += len(request)
        started = self._clock.now()
        reply = await self._transport.gossip(member.address, request, timeout_s=timeout_s)
        answer = Gossip.decode(reply)
        self._check(answer)
        if answer.name != member.name:
            raise TransportError(Refusal.TRANSPORT, f"{answer.name} answers at the address of {member.name}")
        self._take(answer, len(reply))
        if not target:
            self._peers[member.name].round_trip_s = self._clock.now() - started
        return answer

    async def _relay(self, name: str) -> None:
        """Ask a member for somebody else. Raises PeerError if it does not answer."""
        member = self._roster.get(name)
        if member is None or name == self._me.name:
            raise TransportError(Refusal.TRANSPORT, f"{name} is not known to me")
        if self._relays >= MAX_RELAYS:
            raise TransportError(Refusal.RATE_LIMITED, f"{self._relays} members are being asked for others")
        self._relays += 1
        try:
            await self._ask(member, self._settings.probe_s / 2)
        except PeerError as error:
            # Not DEADLINE: that we have failed to reach it is an answer in time.
            raise TransportError(Refusal.TRANSPORT, f"{name} does not answer me") from error
        finally:
            self._relays -= 1

    async def _tell(self, most: int, timeout_s: float) -> None:
        """Say at once what is new of ourselves to so many others."""

        async def tell(member: Member) -> None:
            with suppress(PeerError):
                await self._ask(member, timeout_s)

        async with asyncio.TaskGroup() as group:
            for member in self._some(most):
                group.create_task(tell(member))

    # ---- Comparing. ----

    async def _sync_all(self) -> None:
        while True:
            await self._clock.sleep(self._settings.sync_s * (0.8 + 0.4 * self._rng.random()))
            self._forget()
            for member in (*self._some(1), *self._lost()):
                self._start(self._sync(member))

    async def _sync(self, member: Member) -> None:
        with suppress(PeerError):
            answer = await self._ask(member, self._patience)
            if answer.roster != self._roster.digest:
                await self._ask(member, self._patience, everything=True)

    def _forget(self) -> None:
        for name in [n for n, since in self._went.items() if self._clock.now() - since > FORGET_S]:
            del self._went[name]
            self._roster.forget(name)

    # ---- What is said and heard. ----

    def _message(self, to: str, *, target: str = "", everything: bool = False) -> Gossip:
        return Gossip(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            round=self._round(),
            target=target,
            news=(self._roster.me, *(self._everything() if everything else self._newest(to))),
            roster=self._roster.digest,
            all=everything,
            doubts=tuple(self._doubted)[-NEWS:],
        )

    def _newest(self, to: str) -> list[Member]:
        """Choose what to tell: first what is said of the receiver, that it may deny it."""
        about = self._roster.get(to)
        told = [about] if about is not None and about.state is not MemberState.ALIVE else []
        for name in self._news.take(NEWS - len(told)):
            claim = self._roster.get(name)
            if claim is not None and name not in (to, self._me.name):
                told.append(claim)
        return told

    def _everything(self) -> list[Member]:
        """Choose all claims, or as many as fit from another place each time."""
        claims = [claim for claim in self._roster.everybody() if claim.name != self._me.name]
        start = self._rng.randrange(len(claims) + 1)
        told, room = [], ALL_BYTES
        for claim in (*claims[start:], *claims[:start]):
            room -= claim.room
            if room < 0:
                break
            told.append(claim)
        return told

    def _check(self, message: Gossip) -> None:
        if (message.network, message.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{message.network}/{message.run}")

    def _take(self, message: Gossip, size: int) -> None:
        self.bytes_in += size
        self._peers[message.name].round = message.round
        self._roster.learn((claim for claim in message.news if claim.name == message.name), first_hand=True)
        speaker = self._roster.get(message.name)
        if speaker is None or not speaker.state.live:
            self._roster.learn(claim for claim in message.news if claim.name == self._me.name)
            return
        self._roster.learn(self._hearsay(claim) for claim in message.news if claim.name != message.name)
        for name in message.doubts:
            if suspicion := self._suspicions.get(name):
                suspicion.witness(message.name)

    def _hearsay(self, claim: Member) -> Member:
        """Suspect whom others hold for dead unless we have done so for a while: it can still deny that, and stay."""
        known = self._roster.get(claim.name)
        if claim.state is not MemberState.DEAD or claim.name == self._me.name or known is None or not known.state.live:
            return claim
        suspicion = self._suspicions.get(claim.name) if known.age == claim.age else None
        long = suspicion is not None and self._clock.now() >= suspicion.started + self._settings.suspect_s
        return claim if long else replace(claim, state=MemberState.SUSPECT)

    def _changed(self, before: Member | None, claim: Member) -> None:
        """Follow the roster: retell what is new, start and end suspicions."""
        if self._tasks is not None:  # what we heard before was news to us alone
            self._news.add(claim.name, RETELL * math.ceil(math.log2(len(self._roster) + 1)))
        if claim.name == self._me.name:
            if before is not None and claim.age > before.age and (rumour := self._roster.denied):
                self._denied(rumour)
            return
        if claim.state is not MemberState.SUSPECT:
            self._suspicions.pop(claim.name, None)
            self._doubted.pop(claim.name, None)
        elif before is None or before.state is not MemberState.SUSPECT or before.age != claim.age:
            self._suspect(claim)
        if not claim.state.live:
            self._went[claim.name] = self._clock.now()
        elif before is None or not before.state.live:
            self._went.pop(claim.name, None)
            if len(self._order) < len(self._roster):
                # Among those of this turn: a turn may be long.
                self._order.insert(self._rng.randrange(len(self._order) + 1), claim.name)

    # ---- Suspicions. ----

    def _suspect(self, claim: Member) -> None:
        suspicion = Suspicion(self._clock.now(), self._settings.suspect_s, len(self._roster))
        self._suspicions[claim.name] = suspicion
        self._start(self._verdict(claim, suspicion))
        if claim.name not in self._asked and self._rng.random() * len(self._roster) < ASKERS:
            self._start(self._probe(claim))

    async def _verdict(self, claim: Member, suspicion: Suspicion) -> None:
        """Wait until the suspicion is over or its time is up, ask a last time, then hold the member for dead."""
        period = self._settings.probe_s
        while self._suspicions.get(claim.name) is suspicion:
            started = self._clock.now()
            left = suspicion.ends - started
            # Step by step: others who join in bring the end nearer.
            step = min(left, period / 4) if left > 0 else period
            lives = False
            if left > 0:
                await self._clock.sleep(step)
            else:
                lives = await self._answers(claim, step)
            if self._late(started, step):
                # We were asleep ourselves: what it said meanwhile waits to be read.
                suspicion.postpone(self._clock.now() - started)
                self._worsen()
            elif lives:
                suspicion.postpone(self._settings.suspect_s)
            elif left <= 0 and self._suspicions.get(claim.name) is suspicion:
                self._roster.judge(claim.name, MemberState.DEAD)

    def _denied(self, rumour: Member) -> None:
        """Follow a rumour about ourselves that the roster has denied."""
        self._worsen()  # perhaps it was said for a reason
        if not rumour.state.live:
            self._returns.note(self._clock.now())
        elif rumour.address != self._roster.me.address:
            self._start(self._call(rumour))
        if not self._denying:  # a flood of rumours is not answered by a larger one
            self._start(self._deny())

    async def _deny(self) -> None:
        self._denying = True
        try:
            await self._tell(HELPERS, self._patience)
        finally:
            self._denying = False

    # ---- Others who go by our name; see roster.py. ----

    def _met(self, asked: Gossip) -> PeerError:
        """Call back who calls by our own name; return the refusal."""
        other = next((claim for claim in asked.news if claim.name == self._me.name), None)
        if other is None or other.address == self._roster.me.address:
            return TransportError(Refusal.TRANSPORT, "I am called by myself")
        self._start(self._call(other, presented=True))
        return EnvelopeError(Refusal.DUPLICATE_ID, f"{asked.name} is at {self._roster.me.address}")

    async def _call(self, other: Member, *, presented: bool = False) -> None:
        """Say who we are where somebody is said to go by our name; if it `presented` itself, compare."""
        if self._me.name in self._asked or other == self._roster.rival:
            return
        self._asked.add(self._me.name)
        request = Gossip(
            network=self._me.network, run=self._me.run, name=self._me.name, news=(self._roster.original,)
        ).encode()
        try:
            await self._transport.gossip(other.address, request, timeout_s=self._settings.probe_s)
        except PeerError as error:
            if presented and error.refusal is Refusal.DUPLICATE_ID:
                self._roster.rival = other
                self._yield_name()
        finally:
            self._asked.discard(self._me.name)

    def _yield_name(self) -> None:
        if self._roster.outranked and (rival := self._roster.rival):
            raise ConfigError(
                f"DUPLICATE_ID: {rival.address} is another node named {rival.name!r}; give every node its own "
                "node.name, and never start two from one data directory or its copy"
            )

    # ---- Small things. ----

    @property
    def _patience(self) -> float:
        """A period, longer while we are slow ourselves."""
        return self._settings.probe_s * (1 + self.health)

    def _late(self, started: float, limit_s: float) -> bool:
        """Whether something took so long that this process cannot have run meanwhile."""
        return self._clock.now() - started > limit_s + self._settings.probe_s / 2

    def _some(self, most: int, but: str = "") -> list[Member]:
        """Draw some others, fewer if suspects are drawn."""
        members = self._roster.view().members
        drawn = self._rng.sample(members, min(most + 2, len(members)))
        return [m for m in drawn if m.state is MemberState.ALIVE and m.name not in (self._me.name, but)][:most]

    def _lost(self) -> list[Member]:
        """Draw one of those held for dead, if there are any."""
        lost = self._roster.lost()
        return [self._rng.choice(lost)] if lost else []

    def _worsen(self) -> None:
        self.health = min(MAX_HEALTH, self.health + 1)

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            if self._tasks is not None:
                self._tasks.create_task(job, name="gossip")
                return
        except RuntimeError:
            pass  # a task of ours has failed and `run` is about to say so
        job.close()


async def _any(asking: list[asyncio.Task[bool]]) -> bool:
    for answer in asyncio.as_completed(asking):
        if await answer:
            return True
    return False


def _first(failure: BaseException) -> BaseException:
    """Return the first exception in a group of groups."""
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure
