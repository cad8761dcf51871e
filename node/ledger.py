"""Who merged whom with which weight, so that a merge one side missed is paid back by it later.

If i moves by w (P_j - P_i) and j by w (P_i - P_j), the network's mean stays. When a message is lost only
one of them moves. The next header of the one that did says so, and the other then applies its half with
the very same states: replicas hold P_i at that version, the log can go back to P_j at that version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..protocol.messages import Edge, Header

KEEP = 64
"""Own versions whose merges are remembered."""


@dataclass
class Ledger:
    """For each of our versions: the weights with which we merged others while we were at it."""

    history: dict[int, dict[str, float]] = field(default_factory=dict)
    epoch: int = 1
    version: int = 0
    """Our newest version at which a merge was noted."""
    last: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """What the last merge used: peer -> (epoch, version, weight). Goes into the next header."""

    def merged(self, epoch: int, version: int, used: Mapping[str, tuple[int, int, float]]) -> None:
        """Note a merge made while our own state was at (epoch, version)."""
        row = self._row(epoch, version)
        for peer, (_, _, weight) in used.items():
            row[peer] = max(weight, row.get(peer, 0.0))
        self.last = dict(used)

    def settle(self, me: str, header: Header) -> tuple[int, float] | None:
        """Return (our version, weight) that we owe the sender of this header, and mark it as paid.

        Nothing is owed for a version that is no longer remembered: it may have been paid.
        """
        edge = next((e for e in header.edges if e.peer == me), None)
        if edge is None or not edge.merged_weight or edge.merged_epoch != self.epoch:
            return None
        if abs(edge.merged_version - self.version) >= KEEP:
            return None
        row = self.history.setdefault(edge.merged_version, {})
        owed = edge.merged_weight - row.get(header.sender, 0.0)
        if owed <= 1e-7:
            return None
        row[header.sender] = edge.merged_weight
        return edge.merged_version, owed

    def refuse(self, epoch: int, version: int, peer: str) -> None:
        """Note that we chose not to merge a peer: what it merged of us is not owed back."""
        self._row(epoch, version)[peer] = 1.0

    def edges(self, offers: Mapping[str, float]) -> tuple[Edge, ...]:
        """Return the header's edges: the weights offered this round, and what was merged last."""
        return tuple(
            Edge(peer, offers.get(peer, 0.0), *self.last.get(peer, (0, 0, 0.0)))
            for peer in sorted(offers.keys() | self.last.keys())
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "epoch": self.epoch,
            "version": self.version,
            "history": {str(v): row for v, row in self.history.items()},
            "last": {peer: list(row) for peer, row in self.last.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """Read what `to_json` wrote."""
        return cls(
            history={int(v): dict(row) for v, row in data["history"].items()},
            epoch=int(data["epoch"]),
            version=int(data["version"]),
            last={peer: (int(a), int(b), float(c)) for peer, (a, b, c) in data["last"].items()},
        )

    def _row(self, epoch: int, version: int) -> dict[str, float]:
        """Return what is noted of one of our versions; a new epoch starts afresh, old versions are forgotten."""
        if epoch != self.epoch:
            self.history.clear()
        self.epoch, self.version = epoch, version
        for far in [v for v in self.history if abs(v - version) >= KEEP]:
            del self.history[far]
        return self.history.setdefault(version, {})
