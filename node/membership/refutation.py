"""Refutation (SWIM): the roster outdoes a rumour about ourselves, and here we spread that at once."""

from __future__ import annotations

from ...protocol.clock import Clock
from ...protocol.members import Member
from .exchange import Exchange
from .health import Health
from .returns import Returns
from .rivals import Rivals
from .roster import Roster
from .tasks import Tasks

HEARERS = 3
"""Members whom we tell at once that we live after all."""


class Refutation:
    """Follows each rumour that the roster denied, and says when our death may be denied."""

    def __init__(
        self, roster: Roster, clock: Clock, health: Health, exchange: Exchange, rivals: Rivals, tasks: Tasks
    ) -> None:
        self._clock = clock
        self._health = health
        self._exchange = exchange
        self._rivals = rivals
        self._tasks = tasks
        self._returns = Returns()
        self._telling = False
        roster.may_return = lambda: self._returns.may(clock.now())

    def denied(self, rumour: Member) -> None:
        """Follow a rumour that the roster has denied."""
        self._health.worsen()  # perhaps it was said for a reason
        if rumour.state.live:
            self._rivals.heard(rumour)
        else:
            self._returns.note(self._clock.now())
        if not self._telling:  # a flood of rumours is not answered by a larger one
            self._tasks.start(self._tell())

    async def _tell(self) -> None:
        self._telling = True
        try:
            await self._exchange.tell(HEARERS, self._health.patience)
        finally:
            self._telling = False
