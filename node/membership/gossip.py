"""Failure detection and dissemination without any server: SWIM, with Lifeguard's awareness of one's own health.

Every `probe_s` a member asks one other whether it lives (`probing.py`). Who does not answer is asked through others,
then suspected (`suspicion.py`), and held for dead unless it denies that in time (`verdicts.py`). What is new travels
on these very messages (`exchange.py`). Every `sync_s` two members compare a hash of all they know and exchange
everything where it differs, and one of those held for dead is tried again: so partitions heal (`syncing.py`).
Das, Gupta, Motivala: "SWIM" (2002); Dadgar et al.: "Lifeguard" (2018).

A node that hears nobody condemns everybody. So it is not believed about others: see `exchange.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ...protocol.clock import Clock
from ...protocol.errors import EnvelopeError, Refusal
from ...protocol.members import Member, MemberState
from ...protocol.transport import Transport
from ..config import MembershipConfig
from ..gather import Identity
from ..peers import Peers
from .exchange import Exchange
from .health import Health
from .probing import Prober
from .refutation import Refutation
from .rivals import Rivals
from .roster import Roster
from .suspicion import Suspicions
from .syncing import Syncer
from .tasks import Tasks
from .verdicts import Verdicts

LEAVE_S = 0.5
LEAVE_TO = 16
"""Members who are told by ourselves that we leave; they tell the rest."""


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
        probe_s = settings.probe_s
        self._roster = roster
        self._tasks = tasks = Tasks()
        self._health = health = Health(clock, probe_s)
        self._suspicions = suspicions = Suspicions(clock, settings.suspect_s)
        self._exchange = exchange = Exchange(me, roster, transport, clock, peers, suspicions, rng, round_)
        self._prober = Prober(roster, clock, health, suspicions, exchange, probe_s, rng, tasks)
        self._verdicts = Verdicts(roster, clock, health, suspicions, self._prober, settings, tasks)
        self._syncer = Syncer(roster, clock, health, exchange, settings.sync_s, rng, tasks)
        self._rivals = Rivals(me, roster, transport, probe_s, tasks)
        self._refutation = Refutation(roster, clock, health, exchange, self._rivals, tasks)
        roster.watch(self._changed)

    @property
    def health(self) -> int:
        """0: we keep up. Each sign that we are slow ourselves raises it and makes us slower to suspect."""
        return self._health.score

    @property
    def bytes_in(self) -> int:
        """Bytes of gossip received."""
        return self._exchange.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes of gossip sent."""
        return self._exchange.bytes_out

    async def run(self) -> None:
        """Probe and compare until cancelled.

        Raises what a task of ours died of, and ConfigError if another process keeps our name.
        """
        async with self._tasks.run():
            self._rivals.yield_name()
            for member in self._roster.view().members:
                if member.state is MemberState.SUSPECT:
                    self._verdicts.suspect(member)
            self._tasks.start(self._prober.run())
            await self._syncer.run()

    def doubt(self, name: str) -> None:
        """Ask a member now: something hints at its death. Without `run` under way nothing happens."""
        member = self._roster.get(name)
        if member is not None and member.state.live and name != self._roster.me.name:
            self._tasks.start(self._prober.probe(member))

    async def leave(self) -> None:
        """Tell some members that we leave; they tell the rest."""
        self._roster.leave()
        await self._exchange.tell(LEAVE_TO, LEAVE_S)

    async def answer(self, request: bytes) -> bytes:
        """Answer a serialized Gossip. Raises PeerError to refuse, or if the member it asks about did not answer us."""
        asked = self._exchange.read(request)
        if asked.name == self._roster.me.name:
            raise self._rivals.met(asked)
        if self._roster.get(asked.name) is None:
            raise EnvelopeError(Refusal.UNKNOWN_SENDER, f"{asked.name}: say Hello first")
        self._exchange.take(asked, len(request))
        if asked.target:
            await self._prober.relay(asked.target)
        return self._exchange.answer(asked)

    @property
    def strange_to(self) -> set[str]:
        """The names of members who refuse our gossip until we greet them."""
        return self._exchange.strange_to

    def _changed(self, before: Member | None, claim: Member) -> None:
        """Follow the roster: retell what is new, start and end suspicions."""
        if self._tasks.running:  # what we heard before was news to us alone
            self._exchange.retell(claim.name)
        if claim.name == self._roster.me.name:
            if before is not None and claim.age > before.age and (rumour := self._roster.denied):
                self._refutation.denied(rumour)
            return
        if claim.state is not MemberState.SUSPECT:
            self._suspicions.close(claim.name)
        elif before is None or before.state is not MemberState.SUSPECT or before.age != claim.age:
            self._verdicts.suspect(claim)
        if not claim.state.live:
            self._syncer.went(claim.name)
        elif before is None or not before.state.live:
            self._syncer.came(claim.name)
            self._prober.enlist(claim.name)
