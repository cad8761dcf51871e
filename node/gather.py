"""Pull what is new from neighbours and bring their replicas up to date.

Each peer has one pull at a time. A round waits for its pulls until the adaptive deadline or the quorum;
what comes later is still applied, counts for the deadline's statistics, and is merged next time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from functools import partial
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
from ..protocol.limits import max_frame_bytes
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

STALL_S = 5.0
"""A transfer that sends nothing for this long is given up; the next one resumes where it stopped."""
TRANSFER_S = 600.0
"""A whole transfer may take this long beyond the wait for its version."""


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


@dataclass(slots=True)
class Tally:
    """What came of one pull."""

    started: float
    limit_s: float = 0.0
    arrived: int = 0
    """Whole frames that were what their envelopes announced."""
    applied: int = 0
    reason: str = ""
    """Why it ended early, or nothing."""


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
        self._locks: dict[str, asyncio.Lock] = {}
        self._attach = attach
        self._limits = limits
        self._scratch = scratch
        self._events = events or NoEvents()
        self._failed = failed
        self._spools = Spools(scratch, clock.now)
        self._tasks: set[asyncio.Task[bool]] = set()
        self._enough = asyncio.Event()
        self.deadline = AdaptiveDeadline(rounds.floor_s, rounds.ceiling_s, rounds.deviations)

    async def gather(self, addresses: dict[str, str], round_: int) -> None:
        """Pull from all at once and return at the quorum, the deadline, or when all have answered."""
        self._spools.expire()
        started = self._clock.now()
        wait = self._rounds.mode == "sync"
        pulls = [
            asyncio.create_task(self._timed(peer, address, round_ if wait else -1, started), name=f"pull {peer}")
            for peer, address in addresses.items()
        ]
        self._tasks.update(pulls)
        for task in pulls:
            task.add_done_callback(self._tasks.discard)
        await self._until_enough(pulls, started + self.deadline.seconds)

    async def pull(self, peer: str, address: str, wait_round: int, *, snapshot: bool = False) -> bool:
        """Bring one replica up to date; return whether anything new came. Failures are noted, never raised."""
        lock = self._locks.setdefault(peer, asyncio.Lock())
        async with lock:
            tally = Tally(self._clock.now())
            try:
                return await self._pull(peer, address, wait_round, tally, snapshot)
            except (PeerError, DegradedError) as error:
                if isinstance(error, FrameError | EnvelopeError | DegradedError):
                    self._spools.drop(peer)  # more of it would not mend it
                self._fail(peer, tally, error)
            except OSError as error:
                self._spools.drop(peer)
                self._fail(peer, tally, DegradedError(f"a frame of {peer} could not be read back: {error}"))
            finally:
                seconds = round(self._clock.now() - tally.started, 3)
                counts = {"arrived": tally.arrived, "applied": tally.applied, "limit_s": tally.limit_s}
                self._events.emit("pull", peer=peer, seconds=seconds, reason=tally.reason, **counts)
            return False

    def _fail(self, peer: str, tally: Tally, error: PeermergeError) -> None:
        tally.reason = error.refusal.name if isinstance(error, PeerError) else "DEGRADED"
        self._peers[peer].fail(error)
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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._spools.close()

    async def _timed(self, peer: str, address: str, wait_round: int, started: float) -> bool:
        came = await self.pull(peer, address, wait_round)
        if came:
            self._peers[peer].arrival_s = self._clock.now() - started
            self.deadline.observe(self._peers[peer].arrival_s)
        return came

    async def _until_enough(self, pulls: Iterable[asyncio.Task[bool]], deadline: float) -> None:
        pending = set(pulls)
        needed = math.ceil(self._rounds.quorum * len(pending))
        arrived = 0
        enough = asyncio.create_task(self._enough.wait(), name="enough")
        try:
            while pending and arrived < needed and (left := deadline - self._clock.now()) > 0:
                first = asyncio.FIRST_COMPLETED
                done, waiting = await asyncio.wait({*pending, enough}, timeout=left, return_when=first)
                if enough in done:
                    return
                pending = waiting - {enough}
                arrived += sum(task.result() for task in done)
        finally:
            enough.cancel()

    async def _pull(self, peer: str, address: str, wait_round: int, tally: Tally, snapshot: bool) -> bool:
        sha256, offset = self._spools.held(peer)
        ceiling = self._rounds.ceiling_s
        request = PullRequest(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            incarnation=self._me.incarnation,
            have=self._held(peer),
            wait_round=wait_round,
            wait_s=ceiling if wait_round >= 0 else 0.0,
            partial=sha256,
            offset=offset,
            snapshot=snapshot,
        ).encode()
        self._peers[peer].bytes_out += len(request)
        tally.limit_s = ceiling + TRANSFER_S
        stream = self._transport.pull(address, request, timeout_s=tally.limit_s, stall_s=STALL_S)
        newest: Arrivals | None = None
        with ExitStack() as files:
            try:
                async with aclosing(stream), aclosing(self._frames(peer, stream)) as frames:
                    async for header, frame, arrivals in frames:
                        newest = None
                        tally.arrived += 1
                        await self._clock.work(partial(self._apply, peer, header, frame))
                        tally.applied += 1
                        newest = files.enter_context(closing(arrivals))
            except PeerError as error:
                # What breaks off behind a frame costs what was to come there, and not the frame.
                if newest is None or not newest.expected or self._spools.held(peer)[0]:
                    raise
                self._fail(peer, tally, error)
            if newest and (found := newest.result()):
                await self._clock.work(partial(self._attach, peer, found))
        return newest is not None

    async def _frames(self, peer: str, stream: AsyncGenerator[bytes]) -> AsyncGenerator[Whole]:
        """Spool the frames of a Pull stream, checked in the order of the protocol's page; yield each that is whole.

        What comes behind the last goes to its arrivals for as long as it is of use.
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
                        arrivals = Arrivals(whole.header.attachments, self._limits, self._scratch)
                        yield whole.header, whole.frame(), arrivals
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
