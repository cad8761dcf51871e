"""Probing (SWIM): ask one member after the other whether it lives, directly and then through others."""

from __future__ import annotations

import asyncio
from random import Random

from ...protocol.clock import Clock
from ...protocol.errors import PeerError, Refusal, TransportError
from ...protocol.members import Member, MemberState
from .exchange import Exchange
from .health import Health
from .roster import Roster
from .suspicion import Suspicions
from .tasks import Tasks

HELPERS = 3
"""Members who ask on our behalf, and whom we tell at once whom we doubt."""
MAX_RELAYS = 16
ASKERS = 8
"""So many members, on average, ask a suspect themselves when they hear of it."""
LIVING = frozenset({Refusal.UNKNOWN_SENDER, Refusal.RATE_LIMITED, Refusal.BUDGET_EXCEEDED})
"""Refusals that only the member itself gives: whoever refuses us for these lives."""


class Prober:
    """Whom we ask next, and whom we are asking, for ourselves and for others."""

    def __init__(
        self,
        roster: Roster,
        clock: Clock,
        health: Health,
        suspicions: Suspicions,
        exchange: Exchange,
        probe_s: float,
        rng: Random,
        tasks: Tasks,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._health = health
        self._suspicions = suspicions
        self._exchange = exchange
        self._probe_s = probe_s
        self._rng = rng
        self._tasks = tasks
        self._order: list[str] = []
        """Whom to ask next, from the end."""
        self._asked: set[str] = set()
        """Members with a probe of ours under way."""
        self._relays = 0

    # ---- Whom to ask. ----

    async def run(self) -> None:
        """Ask one member after the other, in an order that is drawn anew each time it is through."""
        while True:
            await self._clock.sleep(self._health.patience * (0.9 + 0.2 * self._rng.random()))
            if (member := self._next()) is not None:
                self._tasks.start(self.probe(member))

    def _next(self) -> Member | None:
        while self._order:
            member = self._roster.get(self._order.pop())
            if member is not None and member.state.live and member.name not in self._asked:
                return member
        self._order = [name for name in self._roster.view().names if name != self._roster.me.name]
        self._rng.shuffle(self._order)
        return None if not self._order else self._roster.get(self._order.pop())

    def enlist(self, name: str) -> None:
        """Ask a newcomer among those of this turn: a turn may be long."""
        if len(self._order) < len(self._roster):
            self._order.insert(self._rng.randrange(len(self._order) + 1), name)

    def second(self, suspect: Member) -> None:
        """Perhaps ask a suspect ourselves: a few members do, however many hear of it."""
        if suspect.name not in self._asked and self._rng.random() * len(self._roster) < ASKERS:
            self._tasks.start(self.probe(suspect))

    # ---- Asking. ----

    async def probe(self, member: Member) -> None:
        """Ask a member, also through others; suspect it if nobody reaches it."""
        if member.name in self._asked:
            return
        self._asked.add(member.name)
        patience, started = self._health.patience, self._clock.now()
        try:
            reached = await self._reaches(member, patience)
        finally:
            self._asked.discard(member.name)
        now = self._roster.get(member.name)
        if reached:
            self._suspicions.trust(member.name)
        elif self._health.overslept(started, 1.5 * patience):
            self._health.worsen()  # we were asleep ourselves: that it did not answer says nothing
        elif now is not None and now.age == member.age:  # else it spoke meanwhile
            new = self._suspicions.doubt(member.name)
            self._roster.judge(member.name, MemberState.SUSPECT)
            self._suspicions.witness(member.name, self._roster.me.name)
            if new:
                await self._exchange.tell(HELPERS, patience)

    async def _reaches(self, member: Member, patience: float) -> bool:
        """Ask directly; who is silent for half the patience is asked through others too, and may still answer."""
        silent = 0

        async def ask(helper: Member) -> bool:
            nonlocal silent
            try:
                await self._exchange.ask(helper, patience, member.name)
            except PeerError as error:
                silent += error.refusal is Refusal.DEADLINE
                return False
            return True

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(self.answers(member, 1.5 * patience))]
            await asyncio.wait(asking, timeout=patience / 2)
            reached = asking[0].done() and asking[0].result()
            if not reached:
                helpers = self._roster.some(HELPERS, self._rng, but=member.name)
                asking += [group.create_task(ask(helper)) for helper in helpers]
                reached = await _any(asking)
            for task in asking:
                task.cancel()
        if not reached and silent:
            # A helper that fails says so. One that does not even do that means that we are cut off ourselves.
            self._health.worsen()
        return reached

    async def answers(self, member: Member, limit_s: float) -> bool:
        """Ask directly. Who refuses the connection is asked once more: the old one may just have broken."""
        deadline = self._clock.now() + limit_s
        for _ in range(2):
            try:
                await self._exchange.ask(member, deadline - self._clock.now())
            except PeerError as error:
                if error.refusal is not Refusal.TRANSPORT:
                    return error.refusal in LIVING
            else:
                self._health.improve()
                return True
        return False

    async def relay(self, name: str) -> None:
        """Ask a member for somebody else. Raises PeerError if it does not answer."""
        member = self._roster.get(name)
        if member is None or name == self._roster.me.name:
            raise TransportError(Refusal.TRANSPORT, f"{name} is not known to me")
        if self._relays >= MAX_RELAYS:
            raise TransportError(Refusal.RATE_LIMITED, f"{self._relays} members are being asked for others")
        self._relays += 1
        try:
            await self._exchange.ask(member, self._probe_s / 2)
        except PeerError as error:
            # Not DEADLINE: that we have failed to reach it is an answer in time.
            raise TransportError(Refusal.TRANSPORT, f"{name} does not answer me") from error
        finally:
            self._relays -= 1


async def _any(asking: list[asyncio.Task[bool]]) -> bool:
    for answer in asyncio.as_completed(asking):
        if await answer:
            return True
    return False
