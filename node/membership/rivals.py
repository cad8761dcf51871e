"""Other processes that go by our name: we find out who keeps it (see `roster.py`)."""

from __future__ import annotations

from ...protocol.errors import ConfigError, EnvelopeError, PeerError, Refusal, TransportError
from ...protocol.members import Gossip, Member
from ...protocol.transport import Transport
from ..gather import Identity
from .roster import Roster
from .tasks import Tasks


class Rivals:
    """Calls back whoever goes by our name."""

    def __init__(self, me: Identity, roster: Roster, transport: Transport, probe_s: float, tasks: Tasks) -> None:
        self._me = me
        self._roster = roster
        self._transport = transport
        self._probe_s = probe_s
        self._tasks = tasks
        self._calling = False

    def met(self, asked: Gossip) -> PeerError:
        """Call back who calls by our own name; return the refusal."""
        other = next((claim for claim in asked.news if claim.name == self._me.name), None)
        if other is None or other.address == self._roster.me.address:
            return TransportError(Refusal.TRANSPORT, "I am called by myself")
        self._tasks.start(self._call(other, presented=True))
        return EnvelopeError(Refusal.DUPLICATE_ID, f"{asked.name} is at {self._roster.me.address}")

    def heard(self, rumour: Member) -> None:
        """Call where somebody is said to go by our name."""
        if rumour.address != self._roster.me.address:
            self._tasks.start(self._call(rumour))

    async def _call(self, other: Member, *, presented: bool = False) -> None:
        """Say who we are; if the other `presented` itself, compare. Raises ConfigError if it keeps our name."""
        if self._calling or other == self._roster.rival:
            return
        self._calling = True
        request = Gossip(
            network=self._me.network, run=self._me.run, name=self._me.name, news=(self._roster.original,)
        ).encode()
        try:
            await self._transport.gossip(other.address, request, timeout_s=self._probe_s)
        except PeerError as error:
            if presented and error.refusal is Refusal.DUPLICATE_ID:
                self._roster.rival = other
                self.yield_name()
        finally:
            self._calling = False

    def yield_name(self) -> None:
        """Raise ConfigError if another process keeps our name."""
        if self._roster.outranked and (rival := self._roster.rival):
            raise ConfigError(
                f"DUPLICATE_ID: {rival.address} is another node named {rival.name!r}; give every node its own "
                "node.name, and never start two from one data directory or its copy"
            )
