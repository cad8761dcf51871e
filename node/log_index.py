"""What one epoch of a published log holds, and which of it brings a peer up to date.

An index is never changed, only replaced, so a handler that asks while the worker publishes, compacts or opens
a new epoch sees the log before it or after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..protocol.messages import Header, Point

Kind = Literal["delta", "snapshot"]
Key = tuple[Kind, int]


def key_of(header: Header) -> Key:
    """Return what a version's file is: one step from the version before it, or all from the base."""
    return ("delta" if header.version == header.from_version + 1 else "snapshot"), header.version


def file_name(header: Header) -> str:
    """Return the name under which a version is stored."""
    return f"log/{header.epoch:08d}-{header.version:012d}.{key_of(header)[0]}"


@dataclass(frozen=True, slots=True)
class Index:
    """Names and sizes of the entries of one epoch, the chain at each version, and the head."""

    head: Point
    """What a peer that is up to date holds."""
    round: int = -1
    """The round of the head, or -1."""
    snapshot: int = 0
    """The version of the snapshot, or 0."""
    names: Mapping[Key, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    chains: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def begin(cls, epoch: int, chain: bytes) -> Index:
        """Return the index of an epoch without a version."""
        return cls(Point(epoch, 0, chain, 0), chains={0: chain})

    def having(self, header: Header, size: int) -> Index:
        """Return the index with one more entry; it is the head if no version is newer."""
        key, name = key_of(header), file_name(header)
        newer = header.version >= self.head.version
        return replace(
            self,
            head=header.point if newer else self.head,
            round=header.round if newer else self.round,
            snapshot=header.version if key[0] == "snapshot" else self.snapshot,
            names={**self.names, key: name},
            sizes={**self.sizes, name: size},
            chains={**self.chains, header.version: header.chain},
        )

    def pruned(self, retention: int) -> Index:
        """Return the index without older snapshots and without deltas beyond the retention."""
        oldest = self.head.version - retention
        kept = {k: n for k, n in self.names.items() if (k[1] > oldest if k[0] == "delta" else k[1] == self.snapshot)}
        return replace(
            self,
            names=kept,
            sizes={name: self.sizes[name] for name in kept.values()},
            chains={v: c for v, c in self.chains.items() if v >= oldest or not v},
        )

    def trimmed(self, limit: int) -> Index:
        """Return the index without the oldest deltas: as few as leave `limit` bytes, and none that the head needs.

        Needed are those behind the snapshot, and the newest.
        """
        deltas = sorted(version for kind, version in self.names if kind == "delta")
        size = self.tail_bytes()
        gone = set()
        for version in deltas[:-1]:
            if size <= limit or version > self.snapshot:
                break
            size -= self.sizes[self.names["delta", version]]
            gone.add(self.names["delta", version])
        return replace(
            self,
            names={key: name for key, name in self.names.items() if name not in gone},
            sizes={name: size for name, size in self.sizes.items() if name not in gone},
        )

    def tail_bytes(self, version: int = 0) -> int:
        """Return the bytes of the deltas after a version."""
        return sum(self.sizes[name] for (kind, v), name in self.names.items() if kind == "delta" and v > version)

    def plan(self, have: Point, *, snapshot: bool, through: int) -> list[str]:
        """Return the names of the entries that lead from `have` to the head, cheapest first, deltas up to `through`."""
        tail = None if snapshot else self._tail(have)
        if tail == []:
            return []
        start = [self.names["snapshot", self.snapshot]] if self.snapshot else []
        fresh = start + (self.deltas(self.snapshot) or [])
        if tail is None:
            return fresh
        fresh = tail[: max(0, through - have.version)] + fresh
        return tail if self._cost(tail) <= self._cost(fresh) else fresh

    def deltas(self, version: int) -> list[str] | None:
        """Return the names of the deltas that lead from a version to the head, or None if one of them is gone."""
        names = [self.names.get(("delta", v)) for v in range(version + 1, self.head.version + 1)]
        known = [name for name in names if name is not None]
        return known if len(known) == len(names) and version <= self.head.version else None

    def contradicts(self, held: Point) -> bool:
        """Whether somebody holds a point that this log does not lead to: its history was lost or put back."""
        if held.epoch != self.head.epoch or held.version > self.head.version:
            return held.epoch >= self.head.epoch
        if held.version == self.head.version:
            return held != self.head
        return self.chains.get(held.version, held.chain) != held.chain

    def _tail(self, have: Point) -> list[str] | None:
        known = have.epoch == self.head.epoch and self.chains.get(have.version) == have.chain
        return self.deltas(have.version) if known else None

    def _cost(self, names: list[str]) -> int:
        return sum(self.sizes[name] for name in names)
