"""Peers' published states: follow their logs, verify the chain, keep them over restarts.

A replica costs four bytes per parameter. On disk its levels are memory-mapped and a small mark says which
version they are; if a kill or a power cut leaves the two at odds, the state's own digest tells, and the
replica is pulled again as a snapshot. In a simulation followers of one state share it by its chain digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..protocol.codec import decode
from ..protocol.errors import EnvelopeError, Refusal
from ..protocol.manifest import Manifest
from ..protocol.messages import Header, Point
from .log import chain_link, chain_start
from .state import State

Pool = MutableMapping[bytes, State]
Levels = npt.NDArray[np.int32]


@dataclass(slots=True)
class Replica:
    """One peer's published state as we hold it, and its newest header."""

    state: State
    point: Point
    header: Header | None = None

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
    ) -> None:
        self._manifest = manifest
        self._floors = floors
        self._base = base
        self._folder = folder
        self._pool = pool
        self._held: dict[str, Replica] = {}
        if folder is not None:
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

    def apply(self, peer: str, header: Header, frame: bytes, before: Callable[[State], None] | None = None) -> Replica:
        """Apply a verified frame of a checked header; `before` sees the state that the frame extends.

        Raises PeerError and changes nothing if the frame is not what its header promises.
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
        if replica and extends and before:
            before(replica.state)
        state = self._advance(peer, replica.state if replica and extends else None, header, frame)
        self._held[peer] = Replica(state, header.point, header)
        self._mark(peer, header)
        return self._held[peer]

    def forget(self, peer: str) -> None:
        """Drop a replica, on disk too."""
        self._held.pop(peer, None)
        if self._folder is not None:
            for path in (self._levels_path(peer), self._mark_path(peer)):
                path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Hand memory-mapped levels to the disk."""
        for replica in self._held.values():
            if isinstance(replica.state.levels, np.memmap):
                replica.state.levels.flush()

    def _advance(self, peer: str, state: State | None, header: Header, frame: bytes) -> State:
        if self._pool is not None and (shared := self._pool.get(header.chain)) is not None:
            return shared
        delta = decode(frame, self._manifest)
        target = State(self._manifest, self._floors) if state is None else state
        change = target.prepare(delta)
        if change.digest != header.state:
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, f"{peer}: state of version {header.version}")
        if state is None and self._folder is not None:
            target.levels = self._map(peer)
        elif self._pool is not None:
            target = target.copy()
        self._unmark(peer)
        target.apply(change)
        if self._pool is not None:
            self._pool[header.chain] = target
        return target

    def _map(self, peer: str) -> Levels:
        if not self._manifest.length:
            return np.zeros(0, np.int32)
        return np.memmap(self._levels_path(peer), np.int32, "w+", shape=(self._manifest.length,))

    def _load(self, peer: str) -> Replica | None:
        try:
            mark = json.loads(self._mark_path(peer).read_text())
            header = Header.decode(bytes.fromhex(mark["header"]))
            levels: Levels = np.memmap(self._levels_path(peer), np.int32, "r+", shape=(self._manifest.length,))
        except (OSError, ValueError, KeyError, EnvelopeError):
            return None
        if header.manifest != self._manifest.digest or header.base != self._base:
            return None
        state = State(self._manifest, self._floors, levels, np.array(mark["exponents"], np.int8))
        return Replica(state, header.point, header) if state.digest == header.state else None

    def _mark(self, peer: str, header: Header) -> None:
        if self._folder is None:
            return
        exponents = self._held[peer].state.exponents.tolist()
        text = json.dumps({"header": header.encode().hex(), "exponents": exponents})
        temporary = self._mark_path(peer).with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self._mark_path(peer))

    def _unmark(self, peer: str) -> None:
        if self._folder is not None:
            self._mark_path(peer).unlink(missing_ok=True)

    def _levels_path(self, peer: str) -> Path:
        return Path(self._folder or "") / f"{peer}.levels"

    def _mark_path(self, peer: str) -> Path:
        return Path(self._folder or "") / f"{peer}.mark"

