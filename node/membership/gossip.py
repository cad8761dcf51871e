"""Failure detection and dissemination without any server: SWIM, with Lifeguard's awareness of one's own health.

Every `probe_s` a member asks one other whether it lives. Who does not answer is asked through others, then
suspected, and held for dead unless it denies that in time. What is new travels on these very messages. Every
`sync_s` two members compare a hash of all they know and exchange everything where it differs, and one of those held
for dead is tried again: so partitions heal. Das, Gupta, Motivala: "SWIM" (2002); Dadgar et al.: "Lifeguard" (2018).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from ...protocol.clock import Clock
from ...protocol.errors import EnvelopeError, PeerError, Refusal, TransportError
from ...protocol.members import Gossip, Member, MemberState
from ...protocol.transport import Transport
from ..config import MembershipConfig
from ..gather import Identity
from ..peers import Peers
from .roster import Roster
from .suspicion import Suspicion

HELPERS = 3
"""Members who ask on our behalf."""
NEWS = 8
"""Claims on one message besides our own: its size does not grow with the mesh."""
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
        self._left: dict[str, int] = {}
        """How many times each claim is still to be told."""
        self._order: list[str] = []
        self._asked: set[str] = set()
        """Members with a probe of ours under way."""
        self._doubted: set[str] = set()
        """Those who did not answer us, until they do."""
        self._suspicions: dict[str, Suspicion] = {}
        self._stirred: dict[str, asyncio.Event] = {}
        self._died: dict[str, float] = {}
        self._relays = 0
        self.health = 0
        """0: we keep up. Each sign that we are slow ourselves raises it and makes us slower to suspect."""
        self.bytes_in = 0
        self.bytes_out = 0
        roster.watch(self._changed)

    async def run(self) -> None:
        """Probe and compare until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            try:
                for suspect in [m for m in self._roster.everybody() if m.state is MemberState.SUSPECT]:
                    self._suspect(suspect)
                group.create_task(self._probe_all(), name="probe")
                await self._sync_all()
            finally:
                self._tasks = None

    def doubt(self, name: str) -> None:
        """Ask a member now: something hints at its death. Without `run` under way nothing happens."""
        member = self._roster.get(name)
        if member is not None and member.state.live and name not in self._asked:
            self._start(self._probe(member))

    async def leave(self) -> None:
        """Tell some members that we leave; they tell the rest."""
        self._roster.leave()
        others = self._others()
        told = self._rng.sample(others, min(LEAVE_TO, len(others)))
        await asyncio.gather(*(self._ask(member, LEAVE_S) for member in told), return_exceptions=True)

    async def answer(self, request: bytes) -> bytes:
        """Answer a serialized Gossip. Raises PeerError to refuse, or if the member it asks about did not answer us."""
        asked = Gossip.decode(request)
        if (asked.network, asked.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{asked.network}/{asked.run}")
        if asked.name == self._me.name:
            raise EnvelopeError(Refusal.DUPLICATE_ID, asked.name)
        if self._roster.get(asked.name) is None:
            raise EnvelopeError(Refusal.UNKNOWN_SENDER, f"{asked.name}: say Hello first")
        self._take(asked, len(request))
        if asked.target:
            await self._relay(asked.target)
        reply = self._message(asked.name, everything=asked.all).encode()
        self.bytes_out += len(reply)
        return reply

    # ---- Asking. ----

    async def _probe_all(self) -> None:
        """Ask one member after the other, in an order that is drawn anew each time it is through."""
        while True:
            pause = self._settings.probe_s * (1 + self.health)
            await self._clock.sleep(pause * (0.9 + 0.2 * self._rng.random()))
            if (member := self._next()) is not None:
                self._start(self._probe(member))

    def _next(self) -> Member | None:
        while self._order:
            member = self._roster.get(self._order.pop())
            if member is not None and member.state.live and member.name not in self._asked:
                return member
        self._order = [member.name for member in self._others()]
        self._rng.shuffle(self._order)
        return None if not self._order else self._roster.get(self._order.pop())

    async def _probe(self, member: Member) -> None:
        """Ask a member, then through others; suspect it if nobody reaches it."""
        if member.name in self._asked:
            return
        self._asked.add(member.name)
        try:
            if await self._answers(member) or await self._answers_others(member):
                self._doubted.discard(member.name)
                return
        finally:
            self._asked.discard(member.name)
        now = self._roster.get(member.name)
        if now is not None and now.age == member.age:  # else it spoke meanwhile
            self._doubted.add(member.name)
            self._roster.judge(member.name, MemberState.SUSPECT)
            if suspicion := self._suspicions.get(member.name):
                suspicion.witness(self._me.name)

    async def _answers(self, member: Member) -> bool:
        """Ask directly. Who refuses the connection is asked once more: the old one may just have broken."""
        patience = self._settings.probe_s / 2 * (1 + self.health)
        for _ in range(2):
            try:
                await self._ask(member, patience)
            except PeerError as error:
                if error.refusal is Refusal.TRANSPORT:
                    continue
                # Whoever refuses us lives.
                return error.refusal is not Refusal.DEADLINE
            self.health = max(0, self.health - 1)
            return True
        return False

    async def _answers_others(self, member: Member) -> bool:
        """Let others ask; helpers who do not even say that they failed mean that we are cut off ourselves."""
        helpers = [m for m in self._others() if m.name != member.name and m.state is MemberState.ALIVE]
        chosen = self._rng.sample(helpers, min(HELPERS, len(helpers)))
        patience = self._settings.probe_s * (1 + self.health)
        asking = [asyncio.create_task(self._ask(m, patience, member.name), name=f"ask {m.name}") for m in chosen]
        silent = 0
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    await answer
                except PeerError as error:
                    silent += error.refusal is Refusal.DEADLINE
                else:
                    return True
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        self._worsen(bool(silent))
        return False

    async def _ask(self, member: Member, timeout_s: float, target: str = "", *, everything: bool = False) -> Gossip:
        """Exchange one message; take up the answer. Raises PeerError."""
        request = self._message(member.name, target=target, everything=everything).encode()
        self.bytes_out += len(request)
        started = self._clock.now()
        reply = await self._transport.gossip(member.address, request, timeout_s=timeout_s)
        answer = Gossip.decode(reply)
        if answer.name != member.name or (answer.network, answer.run) != (self._me.network, self._me.run):
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

    # ---- Comparing. ----

    async def _sync_all(self) -> None:
        while True:
            await self._clock.sleep(self._settings.sync_s * (0.8 + 0.4 * self._rng.random()))
            self._forget()
            if others := self._others():
                await self._sync(self._rng.choice(others))
            lost = [m for m in self._roster.everybody() if m.state is MemberState.DEAD]
            if lost:
                await self._sync(self._rng.choice(lost), everything=True)

    async def _sync(self, member: Member, *, everything: bool = False) -> None:
        with suppress(PeerError):
            patience = self._settings.probe_s * (1 + self.health)
            answer = await self._ask(member, patience, everything=everything)
            if not everything and answer.roster != self._roster.digest:
                await self._ask(member, patience, everything=True)

    def _forget(self) -> None:
        for name in [n for n, since in self._died.items() if self._clock.now() - since > FORGET_S]:
            del self._died[name]
            self._roster.forget(name)

    # ---- What is said and heard. ----

    def _message(self, to: str, *, target: str = "", everything: bool = False) -> Gossip:
        me = self._roster.me
        news = [m for m in self._roster.everybody() if m != me] if everything else self._news(to)
        return Gossip(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            round=self._round(),
            target=target,
            news=(me, *news),
            roster=self._roster.digest,
            all=everything,
            doubts=tuple(sorted(self._doubted)[:NEWS]),
        )

    def _news(self, to: str) -> list[Member]:
        """Choose what to tell: first what is said of the receiver, then what was told least often."""
        about = self._roster.get(to)
        told = [about] if about is not None and about.state is not MemberState.ALIVE else []
        for name in sorted(self._left, key=lambda n: (-self._left[n], n))[: NEWS - len(told)]:
            self._left[name] -= 1
            if not self._left[name]:
                del self._left[name]
            claim = self._roster.get(name)
            if claim is not None and name not in (to, self._me.name):
                told.append(claim)
        return told

    def _take(self, message: Gossip, size: int) -> None:
        self.bytes_in += size
        self._peers[message.name].round = message.round
        own = [claim for claim in message.news if claim.name == message.name]
        self._roster.learn(own, first_hand=True)
        self._roster.learn(claim for claim in message.news if claim.name != message.name)
        for name in message.doubts:
            suspicion = self._suspicions.get(name)
            if suspicion is not None and suspicion.witness(message.name):
                self._stirred[name].set()

    def _changed(self, before: Member | None, claim: Member) -> None:
        """Follow the roster: retell what is new, start and end suspicions."""
        self._left[claim.name] = RETELL * math.ceil(math.log2(len(self._roster.view().members) + 1))
        if claim.name == self._me.name:
            if before is not None and claim.age > before.age:
                self._worsen(True)  # we were suspected: perhaps for a reason
            return
        if claim.state is not MemberState.SUSPECT:
            self._suspicions.pop(claim.name, None)
            if stirred := self._stirred.pop(claim.name, None):
                stirred.set()
            if claim.state is MemberState.ALIVE:
                self._doubted.discard(claim.name)
                self._died.pop(claim.name, None)
            else:
                self._doubted.discard(claim.name)
                self._died[claim.name] = self._clock.now()
        elif before is None or before.state is not MemberState.SUSPECT or before.age != claim.age:
            self._suspect(claim)

    def _suspect(self, claim: Member) -> None:
        members = len(self._roster.view().members)
        self._suspicions[claim.name] = Suspicion(self._clock.now(), self._settings.suspect_s, members)
        self._stirred[claim.name] = asyncio.Event()
        self._start(self._verdict(claim))
        if claim.name not in self._asked and self._rng.random() < ASKERS / members:
            self._start(self._probe(claim))

    async def _verdict(self, claim: Member) -> None:
        """Wait until the suspicion ends one way or the other."""
        suspicion = self._suspicions.get(claim.name)
        while suspicion is not None and self._suspicions.get(claim.name) is suspicion:
            due = suspicion.ends
            stirred = self._stirred[claim.name]
            stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock.now())):
                    await stirred.wait()
                continue
            if self._suspicions.get(claim.name) is not suspicion:
                return
            if self._clock.now() - due > self._settings.probe_s / 2 and not suspicion.grace_s:
                # We slept ourselves: what it said meanwhile waits to be read.
                suspicion.grace_s = self._clock.now() - due + self._settings.suspect_s
                self._worsen(True)
            else:
                self._roster.judge(claim.name, MemberState.DEAD)

    # ---- Small things. ----

    def _others(self) -> list[Member]:
        return [m for m in self._roster.view().members if m.name != self._me.name]

    def _worsen(self, worse: bool) -> None:
        self.health = min(MAX_HEALTH, self.health + worse)

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            job.close()
        else:
            self._tasks.create_task(job, name="gossip")
