"""The published state as a log of integer deltas: append, tail, snapshot, digest chain; durable.

A file per version holds envelope and frame exactly as peers receive them, behind the envelope's SHA-256:

    log/EEEEEEEE-VVVVVVVVVVVV.delta      version V from V - 1
    log/EEEEEEEE-VVVVVVVVVVVV.snapshot   version V from the base

chain_v = SHA256(chain_{v-1} || SHA256(frame_v)), so (epoch, version, chain) says exactly what somebody
holds. Compaction is the same operation as a snapshot: once the tail behind the last snapshot is longer
than the retention, a new snapshot is written and deltas beyond the retention are dropped. So a snapshot
and the tail that follows it are always at hand as immutable bytes, and handlers never touch the state.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..protocol.codec import Frame, Source, encode
from ..protocol.errors import DataDirError, DegradedError, EnvelopeError, PeerError, Refusal
from ..protocol.fields import DIGEST
from ..protocol.messages import Envelope, Header, Point
from .log_index import Index, file_name
from .state import State, taken
from .storage import Storage

_LENGTH = struct.Struct("<I")
_FILE = re.compile(r"log/(\d{8})-(\d{12})\.(delta|snapshot)")
MAX_EPOCH = 10**8 - 1
"""Epochs are consecutive: a peer that claims to hold a later one of ours is wrong."""
Signer = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One version as peers receive it."""

    header: Header
    envelope: bytes
    frame: bytes

    def pack(self) -> bytes:
        """Return the file's content."""
        digest = hashlib.sha256(self.envelope).digest()
        return digest + _LENGTH.pack(len(self.envelope)) + self.envelope + self.frame

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        """Read and verify a file's content; raises PeerError if it is damaged."""
        start = DIGEST + _LENGTH.size
        end = start + (_LENGTH.unpack_from(data, DIGEST)[0] if len(data) >= start else 0)
        envelope, frame = data[start:end], data[end:]
        if hashlib.sha256(envelope).digest() != data[:DIGEST]:
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, "envelope")
        header = Header.decode(Envelope.decode(envelope).header)
        verify_frame(header, frame)
        return cls(header, envelope, frame)


def verify_frame(header: Header, frame: bytes | bytearray) -> None:
    """Raise EnvelopeError unless the frame is the one that the header announces."""
    if len(frame) != header.frame_bytes:
        raise EnvelopeError(Refusal.TRUNCATED, f"{len(frame)} of {header.frame_bytes} bytes")
    if hashlib.sha256(frame).digest() != header.frame_sha256:
        raise EnvelopeError(Refusal.DIGEST_MISMATCH, "frame")


def chain_link(previous: bytes, frame_sha256: bytes) -> bytes:
    """Return the next link of a digest chain."""
    return hashlib.sha256(previous + frame_sha256).digest()


def chain_start(manifest: bytes, base: bytes, sender: str, epoch: int) -> bytes:
    """Return the chain at version 0 of a log epoch: both ends can compute it."""
    return hashlib.sha256(b"peermerge/log/v1\0" + manifest + base + f"{sender}/{epoch}".encode()).digest()


def unsigned(_header: bytes) -> bytes:
    """Sign nothing: identity is not configured."""
    return b""


class PublishedLog:
    """What this node has told the world about itself, and the state P that follows from it.

    One worker at a time appends, restarts and reads states; handlers ask for points, plans and entries meanwhile.
    """

    def __init__(
        self, storage: Storage, state: State, sender: str, base: bytes, retention: int, sign: Signer = unsigned
    ) -> None:
        self.state = state
        self.dropped: list[str] = []
        """Files that did not verify when the log was opened."""
        self._storage = storage
        self._sender = sender
        self._base = base
        self._retention = retention
        self._sign = sign
        self._newest: tuple[str, Entry] | None = None
        self._index = self._start(1)
        self._open()

    @property
    def point(self) -> Point:
        """The head: what a peer that is up to date holds."""
        return self._index.head

    @property
    def epoch(self) -> int:
        """The log epoch: it changes only when history is lost."""
        return self._index.head.epoch

    @property
    def version(self) -> int:
        """The number of deltas in this epoch."""
        return self._index.head.version

    @property
    def header(self) -> Header | None:
        """The header of the head, if there is one."""
        return self._newest[1].header if self._newest and self.version else None

    @property
    def last_round(self) -> int:
        """The round of the newest version, or -1."""
        return self._index.round

    def append(self, delta: Source, template: Header) -> Entry:
        """Make a delta the next version: encode, apply the frame as every peer will, write it durably.

        `template` says everything but the log's own fields. Nothing changes if this raises
        (DegradedError: the disk refused; FrameError: the delta would leave the state's range).
        """
        self._index, entry = self._extend(self._index, self.state, delta, template)
        if self.version - self._index.snapshot > self._retention:
            self._compact(template)
        return entry

    def restart(self, epoch: int, template: Header) -> Entry:
        """Open a new log epoch whose first version is the whole state: history was lost or contradicted.

        Nothing changes if this raises, as in `append`.
        """
        state = State(self.state.manifest, self.state.floors)
        index, entry = self._extend(self._start(epoch), state, self.state, template)
        self.state, self._index = state, index
        with suppress(DegradedError, DataDirError):
            self._sweep()
        return entry

    def plan(self, have: Point, *, snapshot: bool = False) -> list[str]:
        """Return the names of the entries that bring somebody from `have` to the head, cheapest first."""
        return self._index.plan(have, snapshot=snapshot)

    def contradicts(self, held: Point) -> bool:
        """Whether a peer holds a point of ours that this log does not lead to: then it needs a new epoch."""
        return 0 < held.epoch < MAX_EPOCH and self._index.contradicts(held)

    def read(self, name: str) -> Entry:
        """Return an entry of a plan; raises DataDirError if the file is gone or damaged."""
        if (newest := self._newest) and newest[0] == name:
            return newest[1]
        data = self._storage.read(name)
        if data is None:
            raise DataDirError(f"{name} is gone")
        try:
            return Entry.unpack(data)
        except PeerError as error:
            raise DataDirError(f"{name} is damaged: {error}") from error

    def state_at(self, version: int) -> State | None:
        """Return the published state as it was at an earlier version, or None if the tail no longer reaches it."""
        names = self._index.deltas(version)
        if names is None:
            return None
        state = self.state.copy()
        for name in reversed(names):
            if (entry := self._verified(name)) is None:
                return None
            state.apply(state.prepare(Frame.open(entry.frame, state.manifest), undo=True))
        state.fresh = self._fresh(version)
        return state

    def headers(self, version: int) -> list[Header]:
        """Return the headers of the deltas after a version, as far as they are kept."""
        entries = [self._verified(name) for name in self._index.deltas(version) or ()]
        return [entry.header for entry in entries if entry]

    def _fresh(self, version: int) -> npt.NDArray[np.uint8]:
        """Return the places that a version brought, a bit each; nothing where its delta is gone."""
        name = self._index.names.get(("delta", version))
        entry = self._verified(name) if name else None
        return taken(Frame.open(entry.frame, self.state.manifest)) if entry else np.empty(0, np.uint8)

    # ---- Writing. ----

    def _extend(self, index: Index, state: State, delta: Source, template: Header) -> tuple[Index, Entry]:
        """Add a version to an epoch and its state; change nothing of either if this raises."""
        version = index.head.version
        frame = encode(delta, state.manifest, from_version=version, to_version=version + 1)
        change = state.prepare(Frame.open(frame, state.manifest))
        entry = self._entry(index, frame, template, version, version + 1, change.digest)
        name, data = file_name(entry.header), entry.pack()
        self._storage.write(name, data)
        state.apply(change)
        self._newest = name, entry
        return index.having(entry.header, len(data)), entry

    def _entry(self, index: Index, frame: bytes, template: Header, start: int, version: int, digest: int) -> Entry:
        sha = hashlib.sha256(frame).digest()
        header = replace(
            template,
            sender=self._sender,
            epoch=index.head.epoch,
            version=version,
            from_version=start,
            base=self._base,
            manifest=self.state.manifest.digest,
            chain=index.chains[version] if version in index.chains else chain_link(index.chains[start], sha),
            state=digest,
            frame_bytes=len(frame),
            frame_sha256=sha,
        )
        raw = header.encode()
        # What peers read is what we keep: float fields pass through the wire's own precision.
        return Entry(Header.decode(raw), Envelope(raw, self._sign(raw)).encode(), frame)

    def _compact(self, template: Header) -> None:
        """Write a snapshot of the head and let go of what lies before the retention; a full disk only delays that."""
        frame = encode(self.state, self.state.manifest, from_version=0, to_version=self.version)
        entry = self._entry(self._index, frame, template, 0, self.version, self.state.digest)
        data = entry.pack()
        with suppress(DegradedError, DataDirError):
            self._storage.write(file_name(entry.header), data)
            self._index = self._index.having(entry.header, len(data)).pruned(self._retention)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what the index does not name: older snapshots and epochs, and what a kill left behind."""
        for name in self._files():
            if name not in self._index.sizes:
                self._storage.remove(name)

    # ---- Opening. ----

    def _start(self, epoch: int) -> Index:
        return Index.begin(epoch, chain_start(self.state.manifest.digest, self._base, self._sender, epoch))

    def _files(self) -> dict[str, tuple[int, str, int]]:
        """Return the log's files in order, with epoch, kind and version."""
        found = {name: _FILE.fullmatch(name) for name in self._storage.names("log")}
        return {name: (int(m[1]), m[3], int(m[2])) for name, m in found.items() if m}

    def _open(self) -> None:
        """Load the newest epoch: newest snapshot that verifies, then the deltas that follow it."""
        files = self._files()
        newest = max((epoch for epoch, _, _ in files.values()), default=1)
        self._index = self._start(newest)
        snapshots = [n for n, (epoch, kind, _) in files.items() if (epoch, kind) == (newest, "snapshot")]
        for name in reversed(snapshots):
            if not self._index.snapshot and not self._take(name):
                self.dropped.append(name)
        for name, (epoch, kind, _) in files.items():
            if (epoch, kind) == (newest, "delta") and not self._take(name):
                self.dropped.append(name)
        self.state.fresh = self._fresh(self.version)

    def _verified(self, name: str) -> Entry | None:
        try:
            return self.read(name)
        except DataDirError:
            return None

    def _take(self, name: str) -> bool:
        """Replay a file if it is the next step, or note it if it lies before the snapshot; return whether it fits.

        Raises DataDirError if the log belongs to another model, base or node.
        """
        if (entry := self._verified(name)) is None or file_name(entry.header) != name:
            return False
        header = entry.header
        self._check_ours(header)
        known = self._index.chains.get(header.version, header.chain) == header.chain
        if not known or (header.version > self.version and not self._replay(name, entry)):
            return False
        self._index = self._index.having(header, len(entry.pack()))
        return True

    def _replay(self, name: str, entry: Entry) -> bool:
        header = entry.header
        if header.from_version or header.version == 1:
            chain = self._index.chains.get(header.from_version) if header.from_version == self.version else None
            if chain is None or header.chain != chain_link(chain, header.frame_sha256):
                return False
        try:
            change = self.state.prepare(Frame.open(entry.frame, self.state.manifest))
        except PeerError as error:
            raise DataDirError(f"the log does not fit this model: {error}") from error
        if change.digest != header.state:
            return False
        self.state.apply(change)
        self._newest = name, entry
        return True

    def _check_ours(self, header: Header) -> None:
        ours = (self._sender, self._base, self.state.manifest.digest)
        if (header.sender, header.base, header.manifest) != ours:
            raise DataDirError(
                "the log in this data directory is of another model, base or node; "
                "use another --data-dir or start anew with --fresh"
            )
