"""One exchange of messages: what we say, and what we make of what is said to us (SWIM's piggybacked updates).

What is new of members travels on the questions and answers themselves. Who is held for dead is heard about itself
and about us alone, and nobody is taken for dead on hearsay: a member that we did not suspect yet is suspected.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

from ...protocol.clock import Clock
from ...protocol.errors import EnvelopeError, PeerError, Refusal, TransportError
from ...protocol.limits import MAX_HEADER_BYTES
from ...protocol.members import Gossip, Member, MemberState
from ...protocol.transport import Transport
from ..gather import Identity
from ..peers import Peers
from .news import News
from .roster import Roster
from .suspicion import Suspicions

NEWS = 8
"""Claims on one message besides our own, and doubts: its size does not grow with the mesh."""
RETELL = 3
"""A claim is told RETELL * log2(members) times."""
ALL_BYTES = MAX_HEADER_BYTES - 4096
"""Room for claims in a message that tells everything. Where they are more, each message tells another part."""
ALL_S = 0.1
"""Everything is told to who asks for it so often at most: it costs far more than asking."""


class Exchange:
    """Asks and answers in our name, and counts what that costs."""

    def __init__(
        self,
        me: Identity,
        roster: Roster,
        transport: Transport,
        clock: Clock,
        peers: Peers,
        suspicions: Suspicions,
        rng: Random,
        round_: Callable[[], int],
    ) -> None:
        # round_: the round we are in; it is told with every message.
        self._me = me
        self._roster = roster
        self._transport = transport
        self._clock = clock
        self._peers = peers
        self._suspicions = suspicions
        self._rng = rng
        self._round = round_
        self._news = News()
        self._told_all = -math.inf
        self.strange_to: set[str] = set()
        """Members who said that they do not know us: who introduced us may be gone. They are to be greeted."""
        self.bytes_in = 0
        self.bytes_out = 0

    async def ask(self, member: Member, timeout_s: float, target: str = "", *, everything: bool = False) -> Gossip:
        """Exchange one message; take up the answer. Raises PeerError."""
        request = self._message(member.name, target=target, everything=everything)
        started = self._clock.now()
        try:
            reply = await self._transport.gossip(member.address, request, timeout_s=timeout_s)
        except PeerError as error:
            if error.refusal is Refusal.UNKNOWN_SENDER:
                self.strange_to.add(member.name)
            raise
        self.strange_to.discard(member.name)
        answer = self.read(reply)
        if answer.name != member.name:
            raise TransportError(Refusal.TRANSPORT, f"{answer.name} answers at the address of {member.name}")
        self.take(answer, len(reply))
        if not target:
            self._peers[member.name].round_trip_s = self._clock.now() - started
        return answer

    async def tell(self, most: int, timeout_s: float) -> None:
        """Say at once what is new of ourselves to so many others."""

        async def tell(member: Member) -> None:
            with suppress(PeerError):
                await self.ask(member, timeout_s)

        async with asyncio.TaskGroup() as group:
            for member in self._roster.some(most, self._rng):
                group.create_task(tell(member))

    def answer(self, asked: Gossip) -> bytes:
        """Return our answer to a message."""
        everything = asked.all and self._clock.now() >= self._told_all + ALL_S
        if everything:
            self._told_all = self._clock.now()
        return self._message(asked.name, everything=everything)

    def retell(self, name: str) -> None:
        """Tell what now holds about somebody from now on, often enough for all to hear it."""
        self._news.add(name, RETELL * math.ceil(math.log2(len(self._roster) + 1)))

    # ---- What is said. ----

    def _message(self, to: str, *, target: str = "", everything: bool = False) -> bytes:
        message = Gossip(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            round=self._round(),
            target=target,
            news=(self._roster.me, *(self._everything() if everything else self._newest(to))),
            roster=self._roster.digest,
            all=everything,
            doubts=self._suspicions.doubts(NEWS),
        ).encode()
        self.bytes_out += len(message)
        return message

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

    # ---- What is heard. ----

    def read(self, data: bytes) -> Gossip:
        """Decode a message of our network and run. Raises EnvelopeError."""
        message = Gossip.decode(data)
        if (message.network, message.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{message.network}/{message.run}")
        return message

    def take(self, message: Gossip, size: int) -> None:
        """Take up what a member says."""
        self.bytes_in += size
        self._peers[message.name].round = message.round
        self._roster.learn((claim for claim in message.news if claim.name == message.name), first_hand=True)
        speaker = self._roster.get(message.name)
        if speaker is None or not speaker.state.live:
            self._roster.learn(claim for claim in message.news if claim.name == self._me.name)
            return
        self._roster.learn(self._hearsay(claim) for claim in message.news if claim.name != message.name)
        for name in message.doubts:
            self._suspicions.witness(name, message.name)

    def _hearsay(self, claim: Member) -> Member:
        """Suspect whom others hold for dead unless we have done so for a while: it can still deny that, and stay."""
        known = self._roster.get(claim.name)
        if claim.state is not MemberState.DEAD or claim.name == self._me.name or known is None or not known.state.live:
            return claim
        believed = known.age == claim.age and self._suspicions.ripe(claim.name)
        return claim if believed else replace(claim, state=MemberState.SUSPECT)
