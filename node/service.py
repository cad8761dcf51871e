"""What a node answers to peers: Hello and Pull. Handlers serve immutable bytes and never wait on another call.

Frames and the base are read from their files as they go out: serving one holds a message of it, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

from ..protocol.blob import Blob
from ..protocol.errors import DataDirError, EnvelopeError, Refusal, TransportError
from ..protocol.limits import MAX_PARKED_PULLS
from ..protocol.members import Member
from ..protocol.messages import Header, Hello, Point, PullRequest
from ..protocol.parts import ANY_BASE, AnnouncedBase, base_messages, pull_messages
from .budget import Budget
from .gather import Identity
from .log import PublishedLog
from .membership import Roster
from .peers import PeerRecord, Peers

MAX_WAIT_S = 600.0


class PeerService:
    """The `PeerHandler` of a node."""

    def __init__(
        self,
        me: Identity,
        log: PublishedLog,
        membership: Roster,
        peers: Peers,
        held: Callable[[str], Point],
        budget: Budget,
        attached: Callable[[Header], Mapping[int, Blob]] = lambda header: {},
        gossip: Callable[[bytes], Awaitable[bytes]] | None = None,
        base: Callable[[], Blob | None] = lambda: None,
        round_: Callable[[], int] = lambda: 0,
        told: Callable[[str], int] = lambda name: 0,
    ) -> None:
        # attached: what is kept of the attachments that a header announces, by place. gossip: who answers it.
        # base: the base as it travels, if it is kept. round_: the round we are in.
        # told: the newest version whose header somebody must see, to return a merge that it missed.
        self._me = me
        self._log = log
        self._membership = membership
        self._peers = peers
        self._held = held
        self._budget = budget
        self._attached = attached
        self._gossip = gossip
        self._base = base
        self._round_now = round_
        self._told = told
        self._published = asyncio.Condition()
        self._parked = 0
        self._announced = -1
        self.contradicted = 0
        """The highest log epoch of ours of which some peer holds a state that our log does not contain."""
        self.namesakes: set[str] = set()
        """Where others say that somebody of our name lives: perhaps an earlier process of ours."""
        self.met_itself = False
        """Whether a Hello of our own came back to us: some address leads here."""

    def greeting(self, to: str = "", before: Member | None = None) -> Hello:
        """Return our Hello `to` somebody, if we know to whom; `before`: what was known of it before it spoke."""
        return Hello(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            address=self._membership.me.address,
            incarnation=self._me.incarnation,
            manifest=self._me.manifest.digest,
            base=self._me.base,
            members=self._members(to) + ((before,) if before is not None else ()),
            round=self._round_now(),
            published=self._log.point,
            held=self._held(to) if to else Point(),
        )

    def _members(self, to: str) -> tuple[Member, ...]:
        """Return the live members, and the receiver though we hold it for dead: it must hear of that to deny it."""
        live, receiver = self._membership.view().members, self._membership.get(to)
        return live if receiver is None or receiver.state.live else (*live, receiver)

    def welcome(self, theirs: Hello) -> None:
        """Check a Hello, either side's, and take up what it tells. Raises EnvelopeError to refuse."""
        if (theirs.network, theirs.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{theirs.network}/{theirs.run} is not mine")
        if theirs.name == self._me.name:
            self.met_itself |= theirs.address == self._membership.me.address
            raise EnvelopeError(Refusal.DUPLICATE_ID, f"{theirs.name} at {theirs.address}")
        if theirs.manifest != self._me.manifest.digest:
            raise EnvelopeError(Refusal.MANIFEST_MISMATCH, f"{self._me.name} and {theirs.name}")
        if theirs.base != self._me.base:
            raise EnvelopeError(Refusal.BASE_MISMATCH, f"{self._me.name} and {theirs.name}")
        mine = Member(theirs.name, theirs.address, theirs.incarnation)
        own = next((m for m in theirs.members if m.name == theirs.name and m.age >= mine.age), mine)
        self._membership.learn([replace(own, address=theirs.address)], first_hand=True)
        self._membership.learn(m for m in theirs.members if m.name != theirs.name)
        elsewhere = (m.address for m in theirs.members if m.name == self._me.name and m.state.live)
        self.namesakes.update(a for a in elsewhere if a != self._membership.me.address and len(self.namesakes) < 8)
        self._peers[theirs.name].round = theirs.round
        self._compare(theirs.held)
        held = self._held(theirs.name)
        same = (held.epoch, held.version) == (theirs.published.epoch, theirs.published.version)
        if held.epoch and same and (held.chain, held.state) != (theirs.published.chain, theirs.published.state):
            self._peers[theirs.name].skip(Refusal.EQUIVOCATION)

    def _compare(self, held: Point) -> None:
        """Note whether a peer holds a state of ours that our log does not contain."""
        if self._log.contradicts(held):
            self.contradicted = max(self.contradicted, held.epoch)

    async def announce(self, round_: int) -> None:
        """Wake the pulls that wait for this round's version; the log already holds it durably."""
        async with self._published:
            self._announced = round_
            self._published.notify_all()

    async def hello(self, request: bytes) -> bytes:
        """Answer a Hello."""
        theirs = Hello.decode(request)
        before = self._membership.get(theirs.name)
        self.welcome(theirs)
        self._peers[theirs.name].bytes_in += len(request)
        moved = before is not None and before.state.live and before.address != theirs.address
        reply = self.greeting(theirs.name, before if moved else None).encode()
        self._peers[theirs.name].bytes_out += len(reply)
        return reply

    async def gossip(self, request: bytes) -> bytes:
        """Answer Gossip."""
        if self._gossip is None:
            raise TransportError(Refusal.TRANSPORT, "I do not gossip")
        return await self._gossip(request)

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Stream what leads from the asker's point to our head, if need be once the round it waits for is published."""
        asked = PullRequest.decode(request)
        if (asked.network, asked.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{asked.network}/{asked.run}")
        # Not in Hello alone: a greeting may have missed us while we were set back.
        if asked.name in self._membership.view():
            self._compare(asked.have)
        record = self._account(asked.name)
        record.bytes_in += len(request)
        if not asked.base:
            record.served = (asked.have.epoch, asked.have.version)  # not what we sent last: it may be lost
            if not self._helps(asked):
                await self._until_published(asked.wait_round, min(asked.wait_s, MAX_WAIT_S))
        for message in self._base_messages(asked) if asked.base else self._messages(asked):
            await self._budget.take(len(message))
            record.bytes_out += len(message)
            yield message
        if not asked.base:
            record.served = (self._log.epoch, self._log.version)

    def _account(self, name: str) -> PeerRecord:
        """Return somebody's account; strangers, who choose their names, have none that is kept."""
        return self._peers[name] if self._membership.get(name) is not None else PeerRecord()

    def _base_messages(self, asked: PullRequest) -> Iterator[bytes]:
        """Yield the base, from where an earlier transfer of the same broke off."""
        mine = self._me.base
        if asked.base not in (mine, ANY_BASE):
            raise EnvelopeError(Refusal.BASE_MISMATCH, f"mine is sha256:{mine.hex()}")
        try:
            base = self._base()
            if base is None:
                raise TransportError(Refusal.TRANSPORT, "I keep no file of the base")
            announced = AnnouncedBase(len(base), self._me.manifest.digest, mine)
            known = asked.partial == mine and asked.offset <= len(base)
            yield from base_messages(announced, base, asked.offset if known else 0, self._budget.portion)
        except (DataDirError, OSError) as error:
            raise TransportError(Refusal.TRANSPORT, "my file of the base cannot be read") from error

    def _helps(self, asked: PullRequest) -> bool:
        """Whether what we have brings the asker on, be it short of the round it waits for: then it asks again.

        A snapshot is sent once. To who holds a history that we lost nothing leads before we open a new epoch.
        """
        return not asked.snapshot and not self._log.contradicts(asked.have) and bool(self._log.plan(asked.have))

    def _messages(self, asked: PullRequest) -> Iterator[bytes]:
        names = self._log.plan(asked.have, snapshot=asked.snapshot, through=self._told(asked.name))
        for number, name in enumerate(names):
            try:
                entry = self._log.read(name)
                # A frame before it would make the asker drop what it holds of it.
                known = not number and asked.partial == entry.header.frame_sha256
                resumed = known and asked.offset <= len(entry.frame)
                offset = asked.offset if resumed else 0
                # Only the head's attachments are of use, if it is of the round that is to be merged.
                useful = number == len(names) - 1 and entry.header.round >= asked.wait_round
                attached = self._attached(entry.header) if useful else {}
                yield from pull_messages(entry.envelope, entry.frame, offset, self._budget.portion, attached)
            except DataDirError as error:
                raise TransportError(Refusal.TRANSPORT, "my log was compacted meanwhile; ask again") from error
            except OSError as error:
                raise TransportError(Refusal.TRANSPORT, "my disk cannot be read") from error

    async def _until_published(self, round_: int, wait_s: float) -> None:
        if self._announced >= round_ or not wait_s:
            return
        if self._parked >= MAX_PARKED_PULLS:
            raise TransportError(Refusal.RATE_LIMITED, f"{self._parked} pulls wait already")
        self._parked += 1
        try:
            async with asyncio.timeout(wait_s), self._published:
                await self._published.wait_for(lambda: self._announced >= round_)
        except TimeoutError:
            return
        finally:
            self._parked -= 1
