"""Who merged whom at which version, so that a merge one side missed is paid back by it later.

If i moves by w (P_j - P_i) and j by w (P_i - P_j), the network's mean stays. When a message is lost only
one of them moves. The next header of the one that did says so, and the other then applies its half with
the very same states: replicas hold P_i at that version, the log can go back to P_j at that version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..protocol.messages import Edge, Header, Merged

UNTOLD = 2
"""So many merges of a neighbour that does not know of them yet are let stand: it owes us its half of each, and more at
once would carry it past us."""
KEEP = 64
"""Own versions whose merges are remembered."""


@dataclass
class Ledger:
    """For each of our versions: whom we merged, or refused to merge, while we were at it."""

    epoch: int = 1
    version: int = 0
    """Our newest version that was closed."""
    settled: dict[int, set[str]] = field(default_factory=dict)
    last: dict[str, Merged] = field(default_factory=dict)
    """What the last merge used. Goes into the next header."""

    def merged(self, epoch: int, version: int, used: Mapping[str, Merged]) -> None:
        """Note a merge made while our own state was at (epoch, version)."""
        self.close(epoch, version, used)
        self.last = dict(used)

    def one_sided(self, peer: str, served: tuple[int, int]) -> bool:
        """Whether a neighbour should hear of our last merges of it before we merge it once more.

        served: the epoch and version of ours that it holds; a merge at one version is told by the next. It need not
        merge us for that: who is always late asks all the same, and pays. So two nodes never wait for each other.
        """
        epoch, known = served
        told = known if epoch == self.epoch else 0
        return sum(version >= told and peer in peers for version, peers in self.settled.items()) >= UNTOLD

    def told(self, peer: str) -> int:
        """Return our newest version that can tell a peer of a merge for which it may owe its half; 0 if none does."""
        # A copy: the worker may be merging.
        return max((version + 1 for version, peers in list(self.settled.items()) if peer in peers), default=0)

    def close(self, epoch: int, version: int, peers: Iterable[str]) -> None:
        """Owe these peers nothing for a version of ours: we merged them, or chose not to."""
        if epoch != self.epoch:
            self.settled.clear()
        self.epoch, self.version = epoch, version
        self.settled.setdefault(version, set()).update(peers)
        for far in [v for v in self.settled if abs(v - version) >= KEEP]:
            del self.settled[far]

    def settled_with(self, peer: str, epoch: int, version: int, theirs: tuple[int, int]) -> bool:
        """Whether this pair of states was merged already: by paying back, or against an earlier version of ours."""
        last = self.last.get(peer)
        again = last is not None and (last.epoch, last.version) == theirs
        return again or (epoch == self.epoch and peer in self.settled.get(version, ()))

    def replay(self, headers: Iterable[Header]) -> None:
        """Take up the merges that our own later headers tell of; what came after the last of them is lost."""
        for header in headers:
            self.close(header.epoch, header.from_version, [e.peer for e in header.edges if e.merged])
            self.last = {}

    def settle(self, me: str, header: Header) -> Merged | None:
        """Return how the sender of this header merged us while we missed it, once; None if nothing is owed.

        `version` is ours: the one that it merged. Nothing is owed for versions that are not remembered: they may
        have been paid, and a header that names others must not make us forget or remember anything.
        """
        merged = next((e.merged for e in header.edges if e.peer == me), None)
        if merged is None or merged.epoch != self.epoch or header.sender in self.settled.get(merged.version, ()):
            return None
        if abs(merged.version - self.version) >= KEEP:
            return None
        self.settled.setdefault(merged.version, set()).add(header.sender)
        return merged

    def edges(self, offers: Mapping[str, float]) -> tuple[Edge, ...]:
        """Return the header's edges: the weights offered this round, and what was merged last."""
        return tuple(
            Edge(peer, offers.get(peer, 0.0), self.last.get(peer)) for peer in sorted(offers.keys() | self.last.keys())
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "epoch": self.epoch,
            "version": self.version,
            "settled": {str(v): sorted(peers) for v, peers in self.settled.items()},
            "last": {peer: asdict(merged) for peer, merged in self.last.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """Read what `to_json` wrote."""
        return cls(
            epoch=int(data["epoch"]),
            version=int(data["version"]),
            settled={int(v): set(peers) for v, peers in data["settled"].items()},
            last={peer: Merged(**merged) for peer, merged in data["last"].items()},
        )
