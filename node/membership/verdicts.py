"""Verdicts: a suspect that does not deny in time is held for dead, unless it answers a last question."""

from __future__ import annotations

from ...protocol.clock import Clock
from ...protocol.members import Member, MemberState
from ..config import MembershipConfig
from .health import Health
from .probing import Prober
from .roster import Roster
from .suspicion import Suspicion, Suspicions
from .tasks import Tasks


class Verdicts:
    """Waits out every suspicion and says what comes of it."""

    def __init__(
        self,
        roster: Roster,
        clock: Clock,
        health: Health,
        suspicions: Suspicions,
        prober: Prober,
        settings: MembershipConfig,
        tasks: Tasks,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._health = health
        self._suspicions = suspicions
        self._prober = prober
        self._settings = settings
        self._tasks = tasks

    def suspect(self, claim: Member) -> None:
        """Begin a suspicion."""
        suspicion = self._suspicions.open(claim.name, len(self._roster))
        self._tasks.start(self._decide(claim, suspicion))
        self._prober.second(claim)

    async def _decide(self, claim: Member, suspicion: Suspicion) -> None:
        """Wait until the suspicion is over or its time is up, ask a last time, then hold the member for dead."""
        period = self._settings.probe_s
        while self._suspicions.stands(claim.name, suspicion):
            started = self._clock.now()
            left = suspicion.ends - started
            # Step by step: others who join in bring the end nearer.
            step = min(left, period / 4) if left > 0 else period
            lives = False
            if left > 0:
                await self._clock.sleep(step)
            else:
                lives = await self._prober.answers(claim, step)
            if self._health.overslept(started, step):
                # We were asleep ourselves: what it said meanwhile waits to be read.
                suspicion.postpone(self._clock.now() - started)
                self._health.worsen()
            elif lives:
                suspicion.postpone(self._settings.suspect_s)
            elif left <= 0 and self._suspicions.stands(claim.name, suspicion):
                self._roster.judge(claim.name, MemberState.DEAD)
