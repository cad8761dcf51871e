"""Pull what is new from neighbours and bring their replicas up to date.

Each peer has one pull at a time. A round waits for its pulls until the adaptive deadline or the quorum;
what comes later is still applied, counts for the deadline's statistics, and is merged next time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial as partial_call

from ..protocol.clock import Clock
from ..protocol.errors import EnvelopeError, FrameError, PeerError, Refusal, TransportError
from ..protocol.limits import max_frame_bytes
from ..protocol.manifest import Manifest
from ..protocol.messages import Envelope, Header, Point, PullRequest
from ..protocol.parts import TAG_ENVELOPE, pull_parts
from ..protocol.transport import Transport
from .config import RoundConfig
from .deadline import AdaptiveDeadline
from .log import verify_frame
from .peers import Peers
from .replicas import Replica

STALL_S = 5.0
"""A transfer that sends nothing for this long is given up; the next one resumes where it stopped."""
TRANSFER_S = 600.0
"""A whole transfer may take this long beyond the wait for its version."""


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
class Partial:
    """The beginning of a frame whose transfer broke off."""

    sha256: bytes = b""
    data: bytes = b""


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
        apply: Callable[[str, Header, bytes], Replica],
    ) -> None:
        self._me = me
        self._transport = transport
        self._clock = clock
        self._peers = peers
        self._rounds = rounds
        self._held = held
        self._apply = apply
        self._locks: dict[str, asyncio.Lock] = {}
        self._partial: dict[str, Partial] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self._enough = asyncio.Event()
        self.deadline = AdaptiveDeadline(rounds.floor_s, rounds.ceiling_s, rounds.deviations)

    async def gather(self, addresses: dict[str, str], round_: int) -> None:
        """Pull from all at once and return at the quorum, the deadline, or when all have answered."""
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
            try:
                return await self._pull(peer, address, wait_round, snapshot)
            except PeerError as error:
                self._peers[peer].fail(error)
                return False

    def hurry(self) -> None:
        """Let no round wait any longer: each goes on with what has arrived."""
        self._enough.set()

    async def close(self) -> None:
        """Cancel what is still under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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

    async def _pull(self, peer: str, address: str, wait_round: int, snapshot: bool) -> bool:
        record, partial = self._peers[peer], self._partial.get(peer, Partial())
        ceiling = self._rounds.ceiling_s
        request = PullRequest(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            incarnation=self._me.incarnation,
            have=self._held(peer),
            wait_round=wait_round,
            wait_s=ceiling if wait_round >= 0 else 0.0,
            partial=partial.sha256,
            offset=len(partial.data),
            snapshot=snapshot,
        ).encode()
        record.bytes_out += len(request)
        stream = self._transport.pull(address, request, timeout_s=ceiling + TRANSFER_S, stall_s=STALL_S)
        came = False
        async with aclosing(self._entries(peer, stream, partial)) as entries:
            async for header, frame in entries:
                await self._clock.work(partial_call(self._apply, peer, header, frame))
                came = True
        return came

    async def _entries(
        self, peer: str, stream: AsyncIterator[bytes], partial: Partial
    ) -> AsyncGenerator[tuple[Header, bytes]]:
        """Assemble envelopes and frames from a Pull stream, checking in the order of the protocol's page."""
        record, header, data = self._peers[peer], None, bytearray()
        try:
            async for message in stream:
                record.bytes_in += len(message)
                for tag, payload in pull_parts(message):
                    if tag == TAG_ENVELOPE:
                        if header is not None:
                            raise FrameError(Refusal.TRUNCATED, "an envelope inside a frame")
                        header = self._checked(peer, bytes(payload))
                        resumed = header.frame_sha256 == partial.sha256
                        data = bytearray(partial.data if resumed else b"")
                    elif header is None:
                        raise FrameError(Refusal.BAD_HEADER, "a chunk without an envelope")
                    else:
                        if len(data) + len(payload) > header.frame_bytes:
                            raise FrameError(Refusal.OVERSIZE, "more bytes than announced")
                        data += payload
                    if header is not None and len(data) == header.frame_bytes and tag != TAG_ENVELOPE:
                        verify_frame(header, data)
                        yield header, bytes(data)
                        header, partial = None, Partial()
            if header is not None:
                raise TransportError(Refusal.TRUNCATED, f"{len(data)} of {header.frame_bytes} bytes")
        finally:
            self._partial.pop(peer, None)
            if header is not None and len(data) < header.frame_bytes:
                self._partial[peer] = Partial(header.frame_sha256, bytes(data))

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
        if header.frame_bytes > max_frame_bytes(manifest.length, len(manifest.tensors)):
            raise EnvelopeError(Refusal.OVERSIZE, f"a frame of {header.frame_bytes} bytes")
        return header
