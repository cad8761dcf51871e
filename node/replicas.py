"""Peers' published states: follow their logs, verify the chain, keep them over restarts.

A replica costs four bytes per parameter. On disk its levels are memory-mapped and a small mark says which
version they are; if a kill or a power cut leaves the two at odds, the state's own digest tells, and the
replica is pulled again as a snapshot. In a simulation followers of one state share it by its chain digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..protocol.blob import Blob
from ..protocol.codec import Frame
from ..protocol.entropy import Buffer
from ..protocol.errors import EnvelopeError, FrameError, Refusal
from ..protocol.manifest import Manifest
from ..protocol.messages import Header, Point
from .log import chain_link, chain_start
from .state import Change, State
from .statistics import Measured

Pool = MutableMapping[bytes, State]
Levels = npt.NDArray[np.int32]
LEVELS = ".levels"
"""What the files that hold a replica's levels are called behind its peer's name."""


@dataclass(slots=True)
class Replica:
    """One peer's published state as we hold it, and its newest header."""

    state: State
    point: Point
    header: Header | None = None
    statistics: Mapping[str, Measured | Refusal] = field(default_factory=dict)
    """What came beside the newest frame, by kind, or why it was refused; not kept over a restart."""

    def lacks(self, kinds: Iterable[str]) -> Refusal | None:
        """Say why statistics of these kinds are missing, if one is."""
        found = (self.statistics.get(kind, Refusal.NO_STATISTICS) for kind in sorted(kinds))
        return next((reason for reason in found if isinstance(reason, Refusal)), None)

    @property
    def round(self) -> int:
        """The round of the version held, or -1."""
        return self.header.round if self.header else -1


class Replicas:
    """The replicas of all followed peers, by name."""

    def __init__(
        self,
        manifest: Manifest,
        floors: npt.NDArray[np.int8],
        base: bytes,
        folder: Path | None = None,
        pool: Pool | None = None,
        *,
        mapped: bool = True,
        threads: int = 1,
    ) -> None:
        # mapped=False: only read what another process keeps in the folder. threads: for the segments of a frame.
        self._mapped = mapped
        self._threads = threads
        self._manifest = manifest
        self._floors = floors
        self._base = base
        self._folder = folder
        self._pool = pool
        self._held: dict[str, Replica] = {}
        if folder is not None and mapped:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, peer: str) -> Replica | None:
        """Return what is held of a peer, loading it from disk the first time."""
        if peer not in self._held and self._folder is not None and (loaded := self._load(peer)):
            self._held[peer] = loaded
        return self._held.get(peer)

    def point(self, peer: str) -> Point:
        """Return where in a peer's log we stand; epoch 0 if nowhere."""
        replica = self.get(peer)
        return replica.point if replica else Point()

    def check(self, peer: str, header: Header) -> None:
        """Raise EnvelopeError unless this header is the next thing that its sender's log can say to us."""
        have = self.point(peer)
        if header.epoch < have.epoch or (header.epoch == have.epoch and header.version < have.version):
            raise EnvelopeError(Refusal.REPLAYED, f"{peer}: version {header.epoch}.{header.version}")
        if header.from_version and (header.epoch, header.from_version) != (have.epoch, have.version):
            raise EnvelopeError(Refusal.OUT_OF_SEQUENCE, f"{peer}: from version {header.epoch}.{header.from_version}")
        if (header.epoch, header.version) == (have.epoch, have.version) and header.chain != have.chain:
            raise EnvelopeError(Refusal.EQUIVOCATION, f"{peer}: version {header.epoch}.{header.version}")

    def apply(
        self, peer: str, header: Header, frame: Buffer | Blob, before: Callable[[State], None] | None = None
    ) -> Replica:
        """Apply a verified frame of a checked header; `before` sees the state that the frame extends.

        Raises PeerError, changes nothing and never calls `before` if the frame is not what its header promises. Where
        the state does not come out, what is held of the peer may be at fault: it is forgotten, and a snapshot is next.
        """
        self.check(peer, header)
        replica = self.get(peer)
        extends = replica is not None and bool(header.from_version)
        if header.version == header.from_version + 1:
            previous = (
                replica.point.chain
                if replica and extends
                else chain_start(self._manifest.digest, self._base, peer, header.epoch)
            )
            if chain_link(previous, header.frame_sha256) != header.chain:
                raise EnvelopeError(Refusal.DIGEST_MISMATCH, f"{peer}: chain of version {header.version}")
        state = self._advance(peer, replica.state if replica and extends else None, header, frame, before)
        self._held[peer] = Replica(state, header.point, header)
        self._mark(peer, header)
        return self._held[peer]

    def forget(self, peer: str) -> None:
        """Drop a replica, on disk too."""
        self._held.pop(peer, None)
        if self._folder is not None:
            self._unmark(peer)
            with suppress(OSError):
                self._levels_path(peer).unlink()

    def tidy(self, kept: Collection[str], oldest: int) -> None:
        """Drop those of others than `kept` that have brought nothing since a round, also of an earlier process."""
        found = {path.name.removesuffix(LEVELS) for path in self._folder.glob(f"*{LEVELS}")} if self._folder else set()
        for peer in (found | self._held.keys()) - set(kept):
            if (replica := self.get(peer)) is None or replica.round < oldest:
                self.forget(peer)

    def flush(self) -> None:
        """Hand memory-mapped levels to the disk."""
        for replica in self._held.values():
            if isinstance(replica.state.levels, np.memmap):
                replica.state.levels.flush()

    def _advance(
        self,
        peer: str,
        state: State | None,
        header: Header,
        frame: Buffer | Blob,
        before: Callable[[State], None] | None,
    ) -> State:
        target = State(self._manifest, self._floors) if state is None else state
        shared = None if self._pool is None else self._pool.get(header.chain)
        step = shared or target.prepare(Frame.open(frame, self._manifest), threads=self._threads)
        if step.digest != header.state:
            if state is not None:
                self.forget(peer)
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, f"{peer}: state of version {header.version}")
        if state is not None and before:
            before(state)
        return step if isinstance(step, State) else self._write(peer, target, step, header, fresh=state is None)

    def _write(self, peer: str, state: State, change: Change, header: Header, *, fresh: bool) -> State:
        self._unmark(peer)
        if fresh and self._folder is not None:
            state.levels = self._map(peer)
        elif self._pool is not None and not fresh:
            state = state.copy()  # others may hold it too
        try:
            state.apply(change, threads=self._threads)
        except BaseException:
            self.forget(peer)  # a part may be written: it is pulled again as a snapshot
            raise
        if self._pool is not None:
            self._pool[header.chain] = state
        return state

    def _map(self, peer: str) -> Levels:
        """Return zeros in a file, or in memory where the disk has no room: then nothing is kept over a restart."""
        if not self._manifest.length:
            return np.zeros(0, np.int32)
        path = self._levels_path(peer)
        try:
            path.unlink(missing_ok=True)
            with open(path, "wb") as file:
                # Pages of a sparse file would kill the process (SIGBUS) once the disk is full.
                os.posix_fallocate(file.fileno(), 0, 4 * self._manifest.length)
            return np.memmap(path, np.int32, "r+", shape=(self._manifest.length,))
        except OSError:
            with suppress(OSError):
                path.unlink()
            return np.zeros(self._manifest.length, np.int32)

    def _load(self, peer: str) -> Replica | None:
        try:
            mark = json.loads(self._mark_path(peer).read_text())
            header = Header.decode(bytes.fromhex(mark["header"]))
            exponents = np.frombuffer(bytes.fromhex(mark["exponents"]), np.int8).copy()
            levels = self._levels(peer)
        except (OSError, ValueError, KeyError, TypeError, EnvelopeError):
            return None
        ours = (peer, self._manifest.digest, self._base)
        fits = len(exponents) == len(self._manifest.tensors) and len(levels) == self._manifest.length
        if not fits or (header.sender, header.manifest, header.base) != ours:
            return None
        try:
            state = State(self._manifest, self._floors, levels, exponents)
        except FrameError:  # something in the padding: damaged
            return None
        return Replica(state, header.point, header) if state.digest == header.state else None

    def _levels(self, peer: str) -> Levels:
        if not self._manifest.length:
            return np.zeros(0, np.int32)
        if self._mapped and self._levels_path(peer).stat().st_size == 4 * self._manifest.length:
            return np.memmap(self._levels_path(peer), np.int32, "r+", shape=(self._manifest.length,))
        # Beside a running node: read first, verify what was read.
        return np.fromfile(self._levels_path(peer), np.int32)

    def _mark(self, peer: str, header: Header) -> None:
        state = self._held[peer].state
        if self._folder is None or not (isinstance(state.levels, np.memmap) or not len(state.levels)):
            return
        text = json.dumps({"header": header.encode().hex(), "exponents": state.exponents.tobytes().hex()})
        temporary = self._mark_path(peer).with_suffix(".tmp")
        with suppress(OSError):  # without a mark the replica is pulled again after a restart
            temporary.write_text(text)
            temporary.replace(self._mark_path(peer))

    def _unmark(self, peer: str) -> None:
        if self._folder is not None:
            with suppress(OSError):  # the digest tells that a mark is of another version
                self._mark_path(peer).unlink()

    def _levels_path(self, peer: str) -> Path:
        return Path(self._folder or "") / f"{peer}{LEVELS}"

    def _mark_path(self, peer: str) -> Path:
        return Path(self._folder or "") / f"{peer}.mark"
