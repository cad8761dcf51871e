"""The published state as a log of integer deltas: append, tail, snapshot, digest chain; durable.

A file per version holds envelope and frame exactly as peers receive them:

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
from dataclasses import dataclass, replace

from ..protocol.codec import decode, encode
from ..protocol.delta import Delta
from ..protocol.errors import DataDirError, EnvelopeError, PeerError, PeermergeError, Refusal
from ..protocol.messages import Envelope, Header, Point
from .state import State
from .storage import Storage

_LENGTH = struct.Struct("<I")
_FILE = re.compile(r"log/(\d{8})-(\d{12})\.(delta|snapshot)")
Signer = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One version as peers receive it."""

    header: Header
    envelope: bytes
    frame: bytes

    def pack(self) -> bytes:
        """Return the file's content."""
        return _LENGTH.pack(len(self.envelope)) + self.envelope + self.frame

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        """Read and verify a file's content; raises PeerError if it is damaged."""
        size = _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 0
        envelope, frame = data[_LENGTH.size : _LENGTH.size + size], data[_LENGTH.size + size :]
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
    """What this node has told the world about itself, and the state P that follows from it."""

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
        self._begin(1)
        self._open()

    @property
    def point(self) -> Point:
        """The head: what a peer that is up to date holds."""
        return Point(self.epoch, self.version, self._chains[self.version], self.state.digest)

    def append(self, delta: Delta, template: Header) -> Entry:
        """Make a delta the next version: encode, apply the frame as every peer will, write it durably.

        `template` says everything but the log's own fields. Nothing changes if this raises
        (DegradedError: the disk refused; FrameError: the delta would leave the state's range).
        """
        frame = encode(delta, self.state.manifest, from_version=self.version, to_version=self.version + 1)
        change = self.state.prepare(decode(frame, self.state.manifest))
        entry = self._entry(frame, template, self.version, self.version + 1, change.digest)
        self._storage.write(self._name(entry.header, "delta"), entry.pack())
        self.state.apply(change)
        self._register(entry)
        if self.version - self._snapshot > self._retention:
            self._compact(template)
        return entry

    def restart(self, epoch: int, template: Header) -> Entry:
        """Open a new log epoch whose first version is the whole state: history was lost or contradicted."""
        whole, old, before = self.state.snapshot(), self._files(), dict(self.__dict__)
        self.state = State(self.state.manifest, self.state.floors)
        self._begin(epoch)
        try:
            entry = self.append(whole, template)
        except PeermergeError:
            self.__dict__.update(before)
            raise
        for name in old:
            self._storage.remove(name)
        return entry

    def plan(self, have: Point, *, snapshot: bool = False) -> list[str]:
        """Return the names of the entries that bring somebody from `have` to the head, cheapest first."""
        tail = None if snapshot else self._tail(have)
        if tail == []:
            return []
        fresh = ([self._names[("snapshot", self._snapshot)]] if self._snapshot else []) + [
            self._names[("delta", v)] for v in range(self._snapshot + 1, self.version + 1)
        ]
        if tail is None:
            return fresh
        return tail if self._cost(tail) <= self._cost(fresh) else fresh

    def read(self, name: str) -> Entry:
        """Return an entry of a plan; raises DataDirError if the file is gone or damaged."""
        if self._newest and self._newest[0] == name:
            return self._newest[1]
        data = self._storage.read(name)
        if data is None:
            raise DataDirError(f"{name} is gone")
        try:
            return Entry.unpack(data)
        except PeerError as error:
            raise DataDirError(f"{name} is damaged: {error}") from error

    def state_at(self, version: int) -> State | None:
        """Return the published state as it was at an earlier version, or None if the tail no longer reaches it."""
        names = [self._names.get(("delta", v)) for v in range(version + 1, self.version + 1)]
        if version > self.version or None in names:
            return None
        state = self.state.copy()
        for name in reversed(names):
            delta = decode(self.read(str(name)).frame, state.manifest)
            state.apply(state.prepare(replace(delta, levels=-delta.levels)))
        return state

    @property
    def last_round(self) -> int:
        """The round of the newest version, or -1."""
        return self._newest[1].header.round if self._newest else -1

    def _begin(self, epoch: int) -> None:
        self.epoch, self.version = epoch, 0
        self._snapshot = 0
        self._chains = {0: chain_start(self.state.manifest.digest, self._base, self._sender, epoch)}
        self._names: dict[tuple[str, int], str] = {}
        self._sizes: dict[str, int] = {}
        self._newest: tuple[str, Entry] | None = None

    def _entry(self, frame: bytes, template: Header, start: int, version: int, digest: int) -> Entry:
        sha = hashlib.sha256(frame).digest()
        header = replace(
            template,
            sender=self._sender,
            epoch=self.epoch,
            version=version,
            from_version=start,
            base=self._base,
            manifest=self.state.manifest.digest,
            chain=self._chains[version] if version in self._chains else chain_link(self._chains[start], sha),
            state=digest,
            frame_bytes=len(frame),
            frame_sha256=sha,
        )
        raw = header.encode()
        # What peers read is what we keep: float fields pass through the wire's own precision.
        return Entry(Header.decode(raw), Envelope(raw, self._sign(raw)).encode(), frame)

    def _register(self, entry: Entry) -> None:
        kind = "delta" if entry.header.version == entry.header.from_version + 1 else "snapshot"
        version = entry.header.version
        name = self._name(entry.header, kind)
        self._names[(kind, version)] = name
        self._sizes[name] = len(entry.envelope) + len(entry.frame)
        self._chains[version] = entry.header.chain
        if kind == "snapshot":
            self._snapshot = version
        if version >= self.version:
            self.version = version
            self._newest = (name, entry) if kind == "delta" else self._newest

    def _compact(self, template: Header) -> None:
        frame = encode(self.state.snapshot(), self.state.manifest, from_version=0, to_version=self.version)
        entry = self._entry(frame, template, 0, self.version, self.state.digest)
        old = self._names.get(("snapshot", self._snapshot))
        self._storage.write(self._name(entry.header, "snapshot"), entry.pack())
        self._register(entry)
        if old:
            self._forget("snapshot", int(old[13:25]))
        for kind, version in list(self._names):
            if kind == "delta" and version <= self.version - self._retention:
                self._forget(kind, version)

    def _forget(self, kind: str, version: int) -> None:
        name = self._names.pop((kind, version))
        self._sizes.pop(name)
        self._storage.remove(name)

    def _tail(self, have: Point) -> list[str] | None:
        if have.epoch != self.epoch or have.version > self.version or self._chains.get(have.version) != have.chain:
            return None
        keys = [("delta", v) for v in range(have.version + 1, self.version + 1)]
        return [self._names[k] for k in keys] if all(k in self._names for k in keys) else None

    def _cost(self, names: list[str]) -> int:
        return sum(self._sizes[name] for name in names)

    def _name(self, header: Header, kind: str) -> str:
        return f"log/{header.epoch:08d}-{header.version:012d}.{kind}"

    def _files(self) -> list[str]:
        return [name for name in self._storage.names("log") if _FILE.fullmatch(name)]

    def _open(self) -> None:
        """Load the newest epoch: newest snapshot that verifies, then the deltas that follow it."""
        files = [(int(m[1]), m[3] == "delta", int(m[2]), m[0]) for n in self._files() if (m := _FILE.fullmatch(n))]
        if not files:
            return
        self._begin(max(epoch for epoch, *_ in files))
        for epoch, is_delta, version, name in sorted(files, key=lambda f: (f[1], -f[2] if not f[1] else f[2])):
            if epoch != self.epoch or (not is_delta and self._snapshot):
                continue
            if (entry := self._verified(name)) is None:
                self.dropped.append(name)
            elif not is_delta or version == self.version + 1:
                self._replay(entry)
            elif version <= self._snapshot:
                self._register(entry)
            else:
                self.dropped.append(name)

    def _verified(self, name: str) -> Entry | None:
        try:
            return self.read(name)
        except DataDirError:
            return None

    def _replay(self, entry: Entry) -> None:
        header = entry.header
        follows = header.from_version == 0 or header.chain == chain_link(
            self._chains[header.from_version], header.frame_sha256
        )
        try:
            change = self.state.prepare(decode(entry.frame, self.state.manifest))
        except PeerError as error:
            raise DataDirError(f"the log does not fit this model: {error}") from error
        if follows and change.digest == header.state:
            self.state.apply(change)
            self._register(entry)
        else:
            self.dropped.append(self._name(header, "delta"))

