"""What a node answers to peers: Hello and Pull. Handlers serve immutable bytes and never wait on another call.

A frame is read from the log's file as it goes out: serving one holds a message of it, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from ..protocol.blob import Blob
from ..protocol.errors import DataDirError, EnvelopeError, Refusal, TransportError
from ..protocol.limits import MAX_PARKED_PULLS
from ..protocol.messages import Header, Hello, Member, Point, PullRequest
from ..protocol.parts import pull_messages
from .budget import Budget
from .gather import Identity
from .log import PublishedLog
from .membership import StaticMembership
from .peers import Peers

MAX_WAIT_S = 600.0


class PeerService:
    """The `PeerHandler` of a node."""

    def __init__(
        self,
        me: Identity,
        log: PublishedLog,
        membership: StaticMembership,
        peers: Peers,
        held: Callable[[str], Point],
        budget: Budget,
        attached: Callable[[Header], Mapping[int, Blob]] = lambda header: {},
    ) -> None:
        # attached: what is kept of the attachments that a header announces, by place in its list.
        self._me = me
        self._log = log
        self._membership = membership
        self._peers = peers
        self._held = held
        self._budget = budget
        self._attached = attached
        self._published = asyncio.Condition()
        self._parked = 0
        self._round = -1
        self.contradicted = 0
        """The highest log epoch of ours of which some peer holds a state that our log does not contain."""

    def greeting(self, held: Point = Point()) -> Hello:  # noqa: B008  (an immutable constant)
        """Return our Hello; `held` is what we hold of the receiver."""
        return Hello(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            address=self._membership.me.address,
            incarnation=self._me.incarnation,
            manifest=self._me.manifest.digest,
            base=self._me.base,
            members=self._membership.view().members,
            round=max(0, self._round),
            published=self._log.point,
            held=held,
        )

    def welcome(self, theirs: Hello) -> None:
        """Check a Hello, either side's, and take up what it tells. Raises EnvelopeError to refuse."""
        if (theirs.network, theirs.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{theirs.network}/{theirs.run} is not mine")
        if theirs.name == self._me.name:
            raise EnvelopeError(Refusal.DUPLICATE_ID, f"{theirs.name} at {theirs.address}")
        if theirs.manifest != self._me.manifest.digest:
            raise EnvelopeError(Refusal.MANIFEST_MISMATCH, f"{self._me.name} and {theirs.name}")
        if theirs.base != self._me.base:
            raise EnvelopeError(Refusal.BASE_MISMATCH, f"{self._me.name} and {theirs.name}")
        self._membership.learn([Member(theirs.name, theirs.address)], first_hand=True)
        self._membership.learn(theirs.members)
        self._compare(theirs.held)
        mine = self._held(theirs.name)
        same = (mine.epoch, mine.version) == (theirs.published.epoch, theirs.published.version)
        if mine.epoch and same and (mine.chain, mine.state) != (theirs.published.chain, theirs.published.state):
            self._peers[theirs.name].skip(Refusal.EQUIVOCATION)

    def _compare(self, held: Point) -> None:
        """Note whether a peer holds a state of ours that our log does not contain."""
        if self._log.contradicts(held):
            self.contradicted = max(self.contradicted, held.epoch)

    async def announce(self, round_: int) -> None:
        """Wake the pulls that wait for this round's version; the log already holds it durably."""
        async with self._published:
            self._round = round_
            self._published.notify_all()

    async def hello(self, request: bytes) -> bytes:
        """Answer a Hello."""
        theirs = Hello.decode(request)
        self._peers[theirs.name].bytes_in += len(request)
        self.welcome(theirs)
        reply = self.greeting(self._held(theirs.name)).encode()
        self._peers[theirs.name].bytes_out += len(reply)
        return reply

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Stream what leads from the asker's point to our head, once the round it waits for is published."""
        asked = PullRequest.decode(request)
        if (asked.network, asked.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{asked.network}/{asked.run}")
        # Not in Hello alone: a greeting may have missed us while we were set back.
        self._compare(asked.have)
        record = self._peers[asked.name]
        record.bytes_in += len(request)
        await self._until_published(asked.wait_round, min(asked.wait_s, MAX_WAIT_S))
        for message in self._messages(asked):
            await self._budget.take(len(message))
            record.bytes_out += len(message)
            yield message
        record.served = (self._log.epoch, self._log.version)

    def _messages(self, asked: PullRequest) -> Iterator[bytes]:
        names = self._log.plan(asked.have, snapshot=asked.snapshot)
        for number, name in enumerate(names):
            try:
                entry = self._log.read(name)
                # A frame before it would make the asker drop what it holds of it.
                known = not number and asked.partial == entry.header.frame_sha256
                resumed = known and asked.offset <= len(entry.frame)
                offset = asked.offset if resumed else 0
                # Only the head's attachments are of use.
                attached = self._attached(entry.header) if number == len(names) - 1 else {}
                yield from pull_messages(entry.envelope, entry.frame, offset, self._budget.portion, attached)
            except DataDirError as error:
                raise TransportError(Refusal.TRANSPORT, "my log was compacted meanwhile; ask again") from error
            except OSError as error:
                raise TransportError(Refusal.TRANSPORT, "my disk cannot be read") from error

    async def _until_published(self, round_: int, wait_s: float) -> None:
        if self._round >= round_ or not wait_s:
            return
        if self._parked >= MAX_PARKED_PULLS:
            raise TransportError(Refusal.RATE_LIMITED, f"{self._parked} pulls wait already")
        self._parked += 1
        try:
            async with asyncio.timeout(wait_s), self._published:
                await self._published.wait_for(lambda: self._round >= round_)
        except TimeoutError:
            return
        finally:
            self._parked -= 1
