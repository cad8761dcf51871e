"""What a node remembers of each peer besides its state: traffic, timing, and why it was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..protocol.errors import PeermergeError, Refusal


@dataclass(slots=True)
class PeerRecord:
    """One peer's account."""

    bytes_in: int = 0
    bytes_out: int = 0
    round_trip_s: float = 0.0
    arrival_s: float = 0.0
    distance: float = 0.0
    weight: float = 0.0
    merged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    round: int = -1
    """The round it was last heard to be in."""
    served: tuple[int, int] = (0, 0)
    """Log epoch and version of ours that it has been sent."""

    def fail(self, error: PeermergeError) -> None:
        """Note a failed or refused exchange."""
        self.last_error = str(error)

    def skip(self, reason: Refusal) -> None:
        """Note that it was left out of a merge."""
        self.skipped[reason.name] += 1


class Peers(dict[str, PeerRecord]):
    """Accounts by name, opened at the first mention."""

    def __missing__(self, name: str) -> PeerRecord:
        """Open an account."""
        self[name] = PeerRecord()
        return self[name]

    @property
    def bytes_in(self) -> int:
        """All bytes received from peers."""
        return sum(p.bytes_in for p in self.values())

    @property
    def bytes_out(self) -> int:
        """All bytes sent to peers."""
        return sum(p.bytes_out for p in self.values())
