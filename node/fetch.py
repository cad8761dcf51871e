"""Fetch the base from peers before anything else: by its digest, or whatever the first that answers has.

What arrives is kept in the data directory under the base's digest. A transfer that breaks off goes on where it
ended: with the next peer, or after a restart. Nobody believes the bytes before their digest is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO

from ..protocol.clock import Clock
from ..protocol.errors import ConfigError, DegradedError, EnvelopeError, FrameError, PeerError, Refusal, TransportError
from ..protocol.limits import CHUNK_BYTES
from ..protocol.manifest import Manifest
from ..protocol.messages import Point, PullRequest
from ..protocol.parts import ANY_BASE, BASE_TAGS, TAG_BASE, AnnouncedBase, pull_parts
from ..protocol.transport import Transport
from .base import sizes
from .base_source import read_digest
from .config import NodeConfig
from .gather import STALL_S, Identity

FOLDER = "incoming"
"""Where a base lies until it is whole."""
FIRST_S = 10.0
"""A peer that has not begun to send by then is left for the next."""
RETRY_S = 0.5
FINAL = {
    Refusal.BASE_MISMATCH: 'it has another base: set node.base = "peers", or its digest',
    Refusal.MANIFEST_MISMATCH: "all nodes must train the same model with the same include and exclude",
    Refusal.NETWORK_MISMATCH: "set the same network and run on all nodes",
}
"""Refusals that no waiting cures."""
NONSENSE = "what it sends is not the base that it announces: list another peer"


class Partial:
    """The beginning of a base in a file, and the hash of what is there."""

    def __init__(self, folder: Path, manifest: Manifest, digest: bytes) -> None:
        """Take up what an earlier transfer left. Raises DegradedError."""
        self.digest = digest
        self.path = folder / digest.hex()
        self.whole = sum(sizes(manifest))
        self.size = 0
        self._hash = manifest.base_hash()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115  (open until it is whole)
            self._file.seek(0)
            while chunk := self._file.read(CHUNK_BYTES):
                self._hash.update(chunk)
                self.size += len(chunk)
            if self.size > self.whole:
                self._file.truncate(0)
                self.size, self._hash = 0, manifest.base_hash()
        except OSError as error:
            raise DegradedError(f"{self.path}: {error.strerror or error}") from error

    def add(self, chunk: memoryview) -> None:
        """Take the next bytes. Raises FrameError for more than there can be, DegradedError if the disk refuses."""
        if self.size + len(chunk) > self.whole:
            raise FrameError(Refusal.OVERSIZE, "more bytes than announced")
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            raise DegradedError(
                f"{self.path}: {error.strerror or error}; the base takes {self.whole} bytes: make room and start again"
            ) from error
        self._hash.update(chunk)
        self.size += len(chunk)

    @property
    def right(self) -> bool:
        """Whether all of it is there and has the digest."""
        return self.size == self.whole and self._hash.digest() == self.digest

    def close(self, *, drop: bool = False) -> None:
        """Close the file; `drop`: forget what is there."""
        with suppress(OSError):  # a disk that refused the bytes once refuses them again
            self._file.close()
        if drop:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


class BaseFetch:
    """One node's search for its base."""

    def __init__(self, me: Identity, config: NodeConfig, transport: Transport, clock: Clock, folder: Path) -> None:
        # me.base: the digest to ask for, or ANY_BASE. folder: where to keep what comes.
        self._me = me
        self._wanted = me.base
        self._config = config
        self._transport = transport
        self._clock = clock
        self._folder = folder
        self._partial: Partial | None = None
        self.received = 0
        """Bytes, over all peers and attempts."""

    async def fetch(self, known: Callable[[], Awaitable[Iterable[str]]]) -> Path:
        """Return the file with the whole base. Raises ConfigError, TransportError, DegradedError.

        Whoever is known by then is tried in turn, again and again until none has sent anything for
        `membership.wait_s`.
        """
        await self._clock.work(self._take_up)
        if self._partial is not None and self._partial.right:
            self._partial.close()
            return self._partial.path
        errors: dict[str, PeerError] = {}
        patience = self._config.membership.wait_s
        grown, best = self._clock.now(), self._size
        try:
            while True:
                for address in await known():
                    if address in errors and _cure(errors[address]):
                        continue
                    try:
                        return await self._from(address)
                    except PeerError as error:
                        errors[address] = error
                    if self._size > best:
                        grown, best = self._clock.now(), self._size
                self._give_up(errors, late=self._clock.now() - grown >= patience)
                await self._clock.sleep(RETRY_S)
        finally:
            if self._partial is not None:
                self._partial.close()

    @property
    def _size(self) -> int:
        return self._partial.size if self._partial is not None else 0

    def _take_up(self) -> None:
        """Find what an earlier start left: of the base that is wanted, or of any if any will do."""
        left = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        names = [path.name for path in left if self._wanted in (ANY_BASE, read_digest(path.name))]
        if names and (digest := read_digest(names[0])):
            self._partial = Partial(self._folder, self._me.manifest, digest)

    async def _from(self, address: str) -> Path:
        """Get what is missing from one peer. Raises PeerError, DegradedError."""
        whole = sum(sizes(self._me.manifest))
        request = PullRequest(
            network=self._me.network,
            run=self._me.run,
            name=self._me.name,
            incarnation=self._me.incarnation,
            have=Point(),
            partial=self._partial.digest if self._partial is not None else b"",
            offset=self._size,
            base=self._wanted,
        ).encode()
        limit_s = FIRST_S + whole / self._config.round.min_rate_bytes_s
        stream = self._transport.pull(address, request, timeout_s=limit_s, stall_s=STALL_S)
        begun: Partial | None = None
        earlier = 0
        async with aclosing(_prompt(stream)) as messages:
            async for message in messages:
                self.received += len(message)
                for tag, payload in pull_parts(message, BASE_TAGS):
                    if (tag == TAG_BASE) != (begun is None):
                        raise FrameError(Refusal.BAD_HEADER, "a base is announced once, before its bytes")
                    if begun is None:
                        begun = self._begin(AnnouncedBase.decode(payload), whole)
                        earlier = begun.size
                    else:
                        begun.add(payload)
                if begun is not None and begun.size == whole:
                    break
        if begun is None or begun.size < whole:
            raise TransportError(Refusal.TRUNCATED, f"{self._size} of {whole} bytes of the base")
        if not begun.right:
            begun.close(drop=True)
            self._partial = None
            if earlier:
                raise TransportError(Refusal.TRANSPORT, "what an earlier transfer left of the base is damaged")
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, "base")
        return begun.path

    def _begin(self, announced: AnnouncedBase, whole: int) -> Partial:
        """Check what a peer announces, before anything is kept of it; return the file that it goes on."""
        if announced.manifest != self._me.manifest.digest:
            raise EnvelopeError(Refusal.MANIFEST_MISMATCH, "base")
        if announced.size != whole:
            raise EnvelopeError(Refusal.OVERSIZE, f"a base of {announced.size} bytes, this model has {whole}")
        if self._wanted not in (ANY_BASE, announced.digest):
            raise EnvelopeError(Refusal.BASE_MISMATCH, f"sha256:{announced.digest.hex()}")
        # Whoever answers first decides for all that follow.
        self._wanted = announced.digest
        if self._partial is None or self._partial.digest != announced.digest:
            if self._partial is not None:
                self._partial.close(drop=True)
            self._partial = Partial(self._folder, self._me.manifest, announced.digest)
        return self._partial

    def _give_up(self, errors: dict[str, PeerError], *, late: bool) -> None:
        """Raise if nobody is or will be known, all have refused for good, or none was heard of for too long."""
        if not errors:
            if late or self._config.membership.coordinator is None:
                raise ConfigError(
                    "node.base asks peers, but none is known: list one in membership.peers (--peer), set a "
                    "membership.coordinator that knows one, or give node.base a file"
                )
            return
        address, error = sorted(errors.items())[-1]
        if all(_cure(each) for each in errors.values()):
            raise ConfigError(f"no base from {address}: {error}; {_cure(error)}")
        if late:
            raise TransportError(error.refusal, f"no base from {', '.join(sorted(errors))}: {error.detail}")


async def _prompt(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Pass a stream on; raise TransportError if it does not begin in time."""
    async with aclosing(stream):
        try:
            async with asyncio.timeout(FIRST_S):
                first = await anext(stream, None)
        except TimeoutError:
            raise TransportError(Refusal.DEADLINE, f"no byte for {FIRST_S} s") from None
        if first is None:
            return
        yield first
        async for message in stream:
            yield message


def _cure(error: PeerError) -> str:
    """Return what helps against an error that no waiting cures; nothing if waiting may."""
    hostile = NONSENSE if isinstance(error, FrameError | EnvelopeError) else ""
    return FINAL.get(error.refusal, hostile)
