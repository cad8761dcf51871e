"""Pull what is new from neighbours and bring their replicas up to date.

Each peer has one pull at a time. A round waits for its pulls until the adaptive deadline or the quorum; what comes
later is still applied, counts for the deadline's statistics, and is merged next time. A round waits for nobody whose
last pull is still under way, who missed a deadline and has not come abreast since, or whose transfers fail.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from functools import partial
from random import Random
from types import MappingProxyType
from typing import BinaryIO

from ..protocol.blob import Blob
from ..protocol.clock import Clock
from ..protocol.errors import (
    DegradedError,
    EnvelopeError,
    FrameError,
    PeerError,
    PeermergeError,
    Refusal,
    TransportError,
)
from ..protocol.limits import MAX_MESSAGE_BYTES, max_frame_bytes
from ..protocol.manifest import Manifest
from ..protocol.messages import Envelope, Header, Point, PullRequest
from ..protocol.parts import TAG_ATTACHMENT, TAG_ENVELOPE, pull_parts
from ..protocol.transport import Transport
from .attachments import Arrivals
from .config import RoundConfig
from .deadline import AdaptiveDeadline
from .events import Events, NoEvents
from .peers import Peers
from .replicas import Replica
from .spool import Spool, Spools
from .tally import Tally

STALL_S = 5.0
"""A transfer that brings nothing for this long, beyond what a message takes at the lowest rate, is given up; the next
one goes on where it stopped. Every transfer may take this long."""
CALL_S = 600.0
"""A whole call ends so long after all that it may wait and transfer, whatever else holds it up."""

Attachments = Mapping[str, Blob | PeermergeError]
"""What came beside a frame, by kind, or why it is of no use."""
Attach = Callable[[str, Attachments], None]
Whole = tuple[Header, Blob, Arrivals]
"""A frame that has arrived, with what is said of it and what comes behind it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to peers, in requests and headers."""

    network: str
    run: str
    name: str
    incarnation: int
    base: bytes
    manifest: Manifest


class Gather:
    """Pulls, per peer and per round. `apply` runs as the clock's work: it may touch states."""

    def __init__(
        self,
        me: Identity,
        transport: Transport,
        clock: Clock,
        peers: Peers,
        rounds: RoundConfig,
        held: Callable[[str], Point],
        apply: Callable[[str, Header, Blob], Replica],
        scratch: Callable[[int], BinaryIO],
        attach: Attach = lambda peer, attachments: None,
        limits: Mapping[str, int] = MappingProxyType({}),
        events: Events | None = None,
        failed: Callable[[str, PeermergeError], None] = lambda peer, error: None,
    ) -> None:
        # failed: told of every transfer that failed.
        # attach: what to do with the newest attachments of a peer; limits: those wanted, with the most bytes of each.
        self._me = me
        self._transport = transport
        self._clock = clock
        self._peers = peers
        self._rounds = rounds
        self._held = held
        self._apply = apply
        self._attach = attach
        self._limits = limits
        self._scratch = scratch
        self._events = events or NoEvents()
        self._failed = failed
        self._spools = Spools(scratch, clock.now)
        self._rng = Random(f"{me.run}/{me.name}/{me.incarnation}")
        self._pulls: dict[str, asyncio.Task[bool]] = {}
        """Those under way, by peer; they may outlive their round."""
        self._trailing: set[str] = set()
        """Peers whose pull has brought its newest frame and goes on for what travels behind it."""
        self._broken: BaseException | None = None
        """What a pull died of that no pull should: the next round raises it."""
        self._round = -1
        self._enough = asyncio.Event()
        self.deadline = AdaptiveDeadline(rounds.floor_s, rounds.ceiling_s, rounds.deviations)

    async def gather(self, addresses: Mapping[str, str], round_: int) -> None:
        """Pull from all at once and return at the quorum, the deadline, or when all waited for have answered."""
        if self._broken is not None:
            raise self._broken
        self._spools.expire()
        self._round = round_
        started = self._clock.now()
        waited: dict[asyncio.Task[bool], str] = {}
        others: list[asyncio.Task[bool]] = []
        for peer, address in addresses.items():
            record, task = self._peers[peer], self._pulls.get(peer)
            if task is not None and peer in self._trailing:
                task.cancel()  # a newer frame is worth more than what belongs to the last
                task = None
            record.waited_for = task is None and record.deserves_waiting(round_)
            if task is None and (record.waited_for or not record.backoff.left_s(started)):
                task = self._start(peer, self._timed(peer, address, round_ if self._sync else -1, started))
            if task is not None and record.waited_for:
                waited[task] = peer
            elif task is not None:
                others.append(task)
        for late in await self._until_enough(waited, started + self.deadline.seconds):
            if waited[late] not in self._trailing:
                self._peers[waited[late]].miss(round_)
        # The rest have as long as peers usually take: a node that waits for nobody does not run away from all.
        await self._until_enough(others, started + self.deadline.usual_s)

    async def refresh(self, addresses: Mapping[str, str]) -> None:
        """Pull from all at once what they have, whatever its round, and wait for it as long as a round would."""
        pulls = [
            self._pulls.get(peer) or self._start(peer, self._attempt(peer, address, -1, 0.0))
            for peer, address in addresses.items()
        ]
        await self._until_enough(pulls, self._clock.now() + self.deadline.seconds)

    async def pull(self, peer: str, address: str, wait_round: int, *, snapshot: bool = False) -> bool:
        """Bring one replica up to date; return whether anything new came. Failures are noted, never raised.

        While another pull from that peer is under way nothing comes.
        """
        if peer in self._pulls:
            return False
        # Snapshots of strangers come one after the other: a round waits for none longer than for its neighbours.
        wait_s = self.deadline.seconds if snapshot else self._rounds.ceiling_s
        task = self._start(peer, self._attempt(peer, address, wait_round, wait_s, snapshot=snapshot))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        return _came(task)

    def drop(self, peer: str) -> None:
        """End a peer's pull, under way or waited for: it is no member now, or another life of it begins."""
        if task := self._pulls.get(peer):
            task.cancel()
        if record := self._peers.get(peer):
            record.start_over()

    def welcome(self, peer: str) -> None:
        """Ask a peer again without any pause: it has denied that it is gone."""
        if record := self._peers.get(peer):
            record.backoff.reset()

    async def _attempt(
        self, peer: str, address: str, wait_round: int, wait_s: float, *, snapshot: bool = False
    ) -> bool:
        backoff = self._peers[peer].backoff
        if left_s := backoff.left_s(self._clock.now()):
            await self._clock.sleep(left_s)
        tally = Tally(self._clock)
        held = self._spools.held(peer)
        try:
            came = await self._pull(peer, address, wait_round, wait_s if wait_round >= 0 else 0.0, tally, snapshot)
            if not tally.reason:
                backoff.reset()
            return came
        except (PeerError, DegradedError) as error:
            if isinstance(error, FrameError | EnvelopeError | DegradedError):
                self._spools.drop(peer)  # more of it would not mend it
            elif self._spools.held(peer)[1] and self._spools.held(peer) != held:
                backoff.reset()  # it broke off, but it gets on
            self._fail(peer, tally, error)
        except OSError as error:
            self._spools.drop(peer)
            self._fail(peer, tally, DegradedError(f"a frame of {peer} could not be read back: {error}"))
        except asyncio.CancelledError:
            tally.reason = "CANCELLED"
            raise
        finally:
            self._events.emit("pull", peer=peer, **tally.figures())
        return False

    def _fail(self, peer: str, tally: Tally, error: PeermergeError) -> None:
        tally.reason = error.refusal.name if isinstance(error, PeerError) else "DEGRADED"
        self._peers[peer].fail(error)
        self._peers[peer].backoff.fail(self._clock.now(), self._rng)
        self._failed(peer, error)

    @property
    def hurried(self) -> bool:
        """Whether nothing is to be waited for any longer."""
        return self._enough.is_set()

    def hurry(self) -> None:
        """Let no round wait any longer: each goes on with what has arrived."""
        self._enough.set()

    async def close(self) -> None:
        """Cancel what is still under way."""
        tasks = list(self._pulls.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._spools.close()

    @property
    def _sync(self) -> bool:
        return self._rounds.mode == "sync"

    def _start(self, peer: str, work: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
        task = asyncio.create_task(work, name=f"pull {peer}")
        self._pulls[peer] = task
        self._trailing.discard(peer)
        task.add_done_callback(partial(self._ended, peer))
        return task

    def _ended(self, peer: str, task: asyncio.Task[bool]) -> None:
        if self._pulls.get(peer) is task:
            del self._pulls[peer]
            self._trailing.discard(peer)
        if not task.cancelled():
            self._broken = task.exception() or self._broken

    async def _timed(self, peer: str, address: str, wait_round: int, started: float) -> bool:
        """Pull what a peer has, and again until it has come to our round; a round that waits, waits for that."""
        record, wait_s = self._peers[peer], self._rounds.ceiling_s
        came = again = await self._attempt(peer, address, wait_round, wait_s)
        while again and record.came < wait_round and (left_s := started + wait_s - self._clock.now()) > 0:
            again = await self._attempt(peer, address, wait_round, left_s)
            came = again or not record.backoff.failures
        if came:
            arrival_s = self._clock.now() - started
            # Who is further behind sees more than the staleness between us, and jumps to our round by itself.
            abreast = not self._sync or record.came >= self._round - self._rounds.staleness - 1
            record.arrived(self._round, arrival_s, self.deadline.seconds / 2, abreast=abreast)
            self.deadline.observe(arrival_s)
        return came

    async def _until_enough(
        self, pulls: Collection[asyncio.Task[bool]], deadline: float
    ) -> Collection[asyncio.Task[bool]]:
        """Wait for the quorum or all; return those that were waited for up to the deadline."""
        pending = set(pulls)
        needed = math.ceil(self._rounds.quorum * len(pending))
        arrived = 0
        enough = asyncio.create_task(self._enough.wait(), name="enough")
        try:
            while pending and arrived < needed:
                if (left := deadline - self._clock.now()) <= 0:
                    return pending
                first = asyncio.FIRST_COMPLETED
                done, waiting = await asyncio.wait({*pending, enough}, timeout=left, return_when=first)
                if enough in done:
                    break
                pending = waiting - {enough}
                arrived += sum(map(_came, done))
            return ()
        finally:
            enough.cancel()

    async def _pull(
        self, peer: str, address: str, wait_round: int, wait_s: float, tally: Tally, snapshot: bool
    ) -> bool:
        sha256, offset = self._spools.held(peer)
        request = PullRequest(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            incarnation=self._me.incarnation,
            have=self._held(peer),
            wait_round=wait_round,
            wait_s=wait_s,
            partial=sha256,
            offset=offset,
            snapshot=snapshot,
        ).encode()
        self._peers[peer].bytes_out += len(request)
        # Bytes are seen in messages, and a whole one may take this long.
        stall_s = STALL_S + MAX_MESSAGE_BYTES / self._rounds.min_rate_bytes_s
        stream = self._transport.pull(address, request, timeout_s=wait_s + self._longest_s, stall_s=stall_s)
        newest: Arrivals | None = None
        with ExitStack() as files:
            try:
                async with tally.call(), aclosing(stream), aclosing(self._frames(peer, stream, tally)) as frames:
                    tally.allow(wait_s + STALL_S)
                    async for header, frame, arrivals in frames:
                        newest = None
                        self._trailing.discard(peer)
                        tally.arrived += 1
                        await self._finished(partial(self._apply, peer, header, frame))
                        tally.applied += 1
                        self._peers[peer].came = header.round
                        files.enter_context(closing(arrivals))
                        if header.round >= wait_round:  # behind an older one nothing comes
                            newest = arrivals
                            if arrivals.expected:
                                self._trailing.add(peer)
            except PeerError as error:
                # What breaks off behind a frame costs what was to come there, and not the frame.
                if newest is None or not newest.expected or self._spools.held(peer)[0]:
                    raise
                self._fail(peer, tally, error)
                self._peers[peer].backoff.reset()
            if newest and (found := newest.result()):
                await self._finished(partial(self._attach, peer, found))
        return tally.applied > 0

    async def _finished(self, job: Callable[[], object]) -> None:
        """Run a job on states to its end, even if we are cancelled meanwhile: they are in its hands."""
        work = asyncio.ensure_future(self._clock.work(job))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            raise

    @property
    def _longest_s(self) -> float:
        """A bound on the transfer of the largest frame with all that is wanted behind it."""
        manifest = self._me.manifest
        most = max_frame_bytes(manifest.parameters, len(manifest.tensors)) + sum(self._limits.values())
        return CALL_S + self._transfer_s(most)

    def _transfer_s(self, size: int) -> float:
        """Return how long a transfer of so many bytes may take."""
        return max(STALL_S, size / self._rounds.min_rate_bytes_s)

    async def _frames(self, peer: str, stream: AsyncGenerator[bytes], tally: Tally) -> AsyncGenerator[Whole]:
        """Spool the frames of a Pull stream, checked in the order of the protocol's page; yield each that is whole.

        What comes behind the last goes to its arrivals for as long as it is of use. Each part allows the time for
        what it announces.
        """
        record = self._peers[peer]
        spool: Spool | None = None
        arrivals: Arrivals | None = None
        async for message in stream:
            record.bytes_in += len(message)
            for tag, payload in pull_parts(message):
                if tag == TAG_ENVELOPE:
                    if spool is not None:
                        raise FrameError(Refusal.TRUNCATED, "an envelope inside a frame")
                    if arrivals is not None and arrivals.begun:
                        raise FrameError(Refusal.BAD_HEADER, "an envelope behind attachments")
                    spool = self._spools.begin(peer, self._checked(peer, bytes(payload)))
                    tally.allow(self._transfer_s(spool.header.frame_bytes - spool.size))
                elif tag == TAG_ATTACHMENT:
                    if spool is not None or arrivals is None:
                        raise FrameError(Refusal.BAD_HEADER, "an attachment without a whole frame")
                    if not arrivals.add(payload):
                        return
                elif spool is None:
                    raise FrameError(Refusal.BAD_HEADER, "a chunk without an envelope")
                elif spool.add(payload):
                    spool = None
                    with closing(self._spools.take(peer)) as whole:
                        attached = whole.header.attachments
                        arrivals = Arrivals(attached, self._limits, self._scratch)
                        tally.suspend()
                        yield whole.header, whole.frame(), arrivals
                        wanted = sum(min(a.length, self._limits.get(a.kind, 0)) for a in attached)
                        tally.allow(self._transfer_s(wanted))
        if spool is not None:
            raise TransportError(Refusal.TRUNCATED, f"{spool.size} of {spool.header.frame_bytes} bytes")

    def _checked(self, peer: str, envelope: bytes) -> Header:
        header = Header.decode(Envelope.decode(envelope).header)
        if header.sender != peer:
            raise EnvelopeError(Refusal.UNKNOWN_SENDER, f"{header.sender!r} instead of {peer!r}")
        if (header.network, header.run) != (self._me.network, self._me.run):
            raise EnvelopeError(Refusal.NETWORK_MISMATCH, f"{header.network}/{header.run}")
        if header.base != self._me.base:
            raise EnvelopeError(Refusal.BASE_MISMATCH, peer)
        if header.manifest != self._me.manifest.digest:
            raise EnvelopeError(Refusal.MANIFEST_MISMATCH, peer)
        manifest = self._me.manifest
        if header.frame_bytes > max_frame_bytes(manifest.parameters, len(manifest.tensors)):
            raise EnvelopeError(Refusal.OVERSIZE, f"a frame of {header.frame_bytes} bytes")
        return header


def _came(task: asyncio.Task[bool]) -> bool:
    """Whether a pull that ended brought anything new. Raises what it died of."""
    return not task.cancelled() and task.result()
