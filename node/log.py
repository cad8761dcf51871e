"""The published state as a log of integer deltas: append, tail, snapshot, digest chain; durable.

A file per version, as `log_entry.py` says:

    log/EEEEEEEE-VVVVVVVVVVVV.delta      version V from V - 1
    log/EEEEEEEE-VVVVVVVVVVVV.snapshot   version V from the base

A frame is coded straight into its file and sent and applied from there, so that neither takes memory for more than a
few segments. chain_v = SHA256(chain_{v-1} || SHA256(frame_v)), so (epoch, version, chain) says exactly what somebody
holds. Compaction is the same operation as a snapshot: once the tail behind the last snapshot is longer
than the retention, in versions or in bytes, a new snapshot is written and deltas beyond the retention are dropped.
So a snapshot and the tail that follows it are always at hand as immutable bytes, and handlers never touch the state.
On disk are a snapshot, deltas of `retention_bytes` (or the one newest, if it is larger), and what is being written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..protocol.blob import Blob, sha256, written
from ..protocol.codec import Effort, Frame, Source, write
from ..protocol.errors import DataDirError, DegradedError, PeerError
from ..protocol.messages import Envelope, Header, Point
from .log_entry import Entry
from .log_index import Index, file_name
from .state import State, taken
from .storage import Draft, Storage

_FILE = re.compile(r"log/(\d{8})-(\d{12})\.(delta|snapshot)")
MAX_EPOCH = 10**8 - 1
"""Epochs are consecutive: a peer that claims to hold a later one of ours is wrong."""
Signer = Callable[[bytes], bytes]


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
        self,
        storage: Storage,
        state: State,
        sender: str,
        base: bytes,
        retention: int,
        sign: Signer = unsigned,
        *,
        retention_bytes: int = 0,
        threads: int = 1,
        effort: Effort = "normal",
    ) -> None:
        # retention: deltas kept as a tail; retention_bytes: their bytes at most, whatever their number (0: any).
        # threads: for the segments of a frame; effort: of the coder.
        self.state = state
        self.dropped: list[str] = []
        """Files that did not verify when the log was opened."""
        self._storage = storage
        self._sender = sender
        self._base = base
        self._retention = retention
        self._retention_bytes = retention_bytes
        self._sign = sign
        self._threads = threads
        self._effort: Effort = effort
        self._newest: Header | None = None
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
        return self._newest if self.version else None

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
        behind = self.version - self._index.snapshot
        if behind > self._retention or (behind > 1 and self._too_long(self._index.snapshot)):
            self._compact(template)
        if self._too_long():
            self._index = self._index.trimmed(self._retention_bytes)
            with suppress(DegradedError, DataDirError):
                self._sweep()
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

    def plan(self, have: Point, *, snapshot: bool = False, through: int = 0) -> list[str]:
        """Return the names of the entries that bring somebody from `have` to the head, cheapest first.

        No snapshot stands in for deltas up to version `through`, as long as they are kept.
        """
        return self._index.plan(have, snapshot=snapshot, through=through)

    def contradicts(self, held: Point) -> bool:
        """Whether a peer holds a point of ours that this log does not lead to: then it needs a new epoch."""
        return 0 < held.epoch < MAX_EPOCH and self._index.contradicts(held)

    def read(self, name: str) -> Entry:
        """Return an entry of a plan; raises DataDirError if the file is gone or damaged, its frame left unread."""
        file = self._storage.open(name)
        if file is None:
            raise DataDirError(f"{name} is gone")
        try:
            return Entry.open(file)
        except (PeerError, OSError) as error:
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
            change = state.prepare(Frame.open(entry.frame, state.manifest), undo=True, threads=self._threads)
            state.apply(change, threads=self._threads)
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
        start = index.head.version
        header = self._placed(template, index, start, start + 1)
        with self._storage.create(file_name(header)) as draft:
            frame = self._code(draft, delta, header)
            change = state.prepare(Frame.open(frame, state.manifest), threads=self._threads)
            entry = self._seal(draft, frame, header, index, change.digest)
        state.apply(change, threads=self._threads)
        self._newest = entry.header
        return index.having(entry.header, len(entry)), entry

    def _compact(self, template: Header) -> None:
        """Write a snapshot of the head and let go of what lies before the retention; a full disk only delays that."""
        header = self._placed(template, self._index, 0, self.version)
        with suppress(DegradedError, DataDirError):
            with self._storage.create(file_name(header)) as draft:
                frame = self._code(draft, self.state, header)
                entry = self._seal(draft, frame, header, self._index, self.state.digest)
            self._index = self._index.having(entry.header, len(entry)).pruned(self._retention)
            self._sweep()

    def _too_long(self, version: int = 0) -> bool:
        """Whether the deltas after a version take more bytes than are to be kept."""
        return 0 < self._retention_bytes < self._index.tail_bytes(version)

    def _placed(self, template: Header, index: Index, start: int, version: int) -> Header:
        """Return a header with its place in the log filled in."""
        return replace(
            template,
            sender=self._sender,
            epoch=index.head.epoch,
            version=version,
            from_version=start,
            base=self._base,
            manifest=self.state.manifest.digest,
        )

    def _code(self, draft: Draft, source: Source, header: Header) -> Blob:
        """Write a frame into an empty draft."""
        write(
            draft.file,
            source,
            self.state.manifest,
            from_version=header.from_version,
            to_version=header.version,
            effort=self._effort,
            threads=self._threads,
        )
        return written(draft.file)

    def _seal(self, draft: Draft, frame: Blob, header: Header, index: Index, state: int) -> Entry:
        """Complete the header, write the envelope behind the frame and commit."""
        sha, version = sha256(frame), header.version
        chains = index.chains
        chain = chains[version] if version in chains else chain_link(chains[header.from_version], sha)
        raw = replace(header, chain=chain, state=state, frame_bytes=len(frame), frame_sha256=sha).encode()
        # What peers read is what we keep: float fields pass through the wire's own precision.
        entry = Entry(Header.decode(raw), Envelope(raw, self._sign(raw)).encode(), frame)
        draft.file.seek(0, os.SEEK_END)
        draft.file.write(entry.trailer())
        draft.commit()
        return entry

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
        """Return an entry whose frame was read and is right, or None."""
        try:
            entry = self.read(name)
            entry.verify()
        except (DataDirError, PeerError, OSError):
            return None
        return entry

    def _take(self, name: str) -> bool:
        """Replay a file if it is the next step, or note it if it lies before the snapshot; return whether it fits.

        Raises DataDirError if the log belongs to another model, base or node.
        """
        if (entry := self._verified(name)) is None or file_name(entry.header) != name:
            return False
        header = entry.header
        self._check_ours(header)
        known = self._index.chains.get(header.version, header.chain) == header.chain
        if not known or (header.version > self.version and not self._replay(entry)):
            return False
        self._index = self._index.having(header, len(entry))
        return True

    def _replay(self, entry: Entry) -> bool:
        header = entry.header
        if header.from_version or header.version == 1:
            chain = self._index.chains.get(header.from_version) if header.from_version == self.version else None
            if chain is None or header.chain != chain_link(chain, header.frame_sha256):
                return False
        try:
            change = self.state.prepare(Frame.open(entry.frame, self.state.manifest), threads=self._threads)
        except PeerError as error:
            raise DataDirError(f"the log does not fit this model: {error}") from error
        if change.digest != header.state:
            return False
        self.state.apply(change, threads=self._threads)
        self._newest = header
        return True

    def _check_ours(self, header: Header) -> None:
        ours = (self._sender, self._base, self.state.manifest.digest)
        if (header.sender, header.base, header.manifest) != ours:
            raise DataDirError(
                "the log in this data directory is of another model, base or node; "
                "use another --data-dir or start anew with --fresh"
            )
