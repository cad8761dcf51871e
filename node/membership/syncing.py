"""Syncing (anti-entropy): two members compare a hash of all they know, and tell each other everything if it differs.

One of those held for dead is tried each time too: so partitions heal.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

from ...protocol.clock import Clock
from ...protocol.errors import PeerError
from ...protocol.members import Member
from .exchange import Exchange
from .health import Health
from .roster import Roster
from .tasks import Tasks

FORGET_S = 3600.0
"""The dead are tried again for so long."""


class Syncer:
    """Compares with one member at a time, and forgets who has been gone for long."""

    def __init__(
        self,
        roster: Roster,
        clock: Clock,
        health: Health,
        exchange: Exchange,
        sync_s: float,
        rng: Random,
        tasks: Tasks,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._health = health
        self._exchange = exchange
        self._sync_s = sync_s
        self._rng = rng
        self._tasks = tasks
        self._went: dict[str, float] = {}
        """When the dead and departed went."""

    async def run(self) -> None:
        """Compare with one member after the other, drawn at random."""
        while True:
            await self._clock.sleep(self._sync_s * (0.8 + 0.4 * self._rng.random()))
            self._forget()
            others = self._roster.some(1, self._rng)
            if lost := self._roster.lost():
                others.append(self._rng.choice(lost))
            for member in others:
                self._tasks.start(self._sync(member))

    async def _sync(self, member: Member) -> None:
        with suppress(PeerError):
            answer = await self._exchange.ask(member, self._health.patience)
            if answer.roster != self._roster.digest:
                await self._exchange.ask(member, self._health.patience, everything=True)

    def went(self, name: str) -> None:
        """Note that somebody is no member any more."""
        self._went[name] = self._clock.now()

    def came(self, name: str) -> None:
        """Note that somebody is a member."""
        self._went.pop(name, None)

    def _forget(self) -> None:
        for name in [n for n, since in self._went.items() if self._clock.now() - since > FORGET_S]:
            del self._went[name]
            self._roster.forget(name)
