"""What a node remembers of each peer besides its state: traffic, timing, and why it was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..protocol.errors import PeermergeError, Refusal
from .backoff import Backoff

LONGEST_REST = 16
"""Rounds for which a peer that keeps missing deadlines is not waited for, at most."""
PATIENCE = 3
"""So many misses running cost no rest: each wait lets a peer that started its round later than we come nearer."""


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
    backoff: Backoff = field(default_factory=Backoff)
    """How its transfers fail, and when it is asked again."""
    waited_for: bool = True
    """Whether our latest round waited for it."""
    came: int = -1
    """The round of the newest state that came of it."""
    _missed: int = 0
    """Deadlines that it missed running."""
    _abreast: bool = True
    """Whether what last came of it was of our round; it is believed to be so until it misses a deadline."""
    _rests_until: int = 0
    """The first round that may wait for it again."""

    def fail(self, error: PeermergeError) -> None:
        """Note a failed or refused exchange."""
        self.last_error = str(error)

    def deserves_waiting(self, round_: int) -> bool:
        """Whether a round should wait for it: one failure may be chance, and who fell behind has to come abreast."""
        return self.backoff.failures <= 1 and self._abreast and round_ >= self._rests_until

    def arrived(self, round_: int, arrival_s: float, gain_s: float, *, abreast: bool) -> None:
        """Note an arrival so long after our publishing, and whether it was of our round.

        In time, or sooner than the last by `gain_s`: then waiting for it is not in vain. While it rests it always comes
        sooner: we were not held up.
        """
        if self.waited_for or (round_ >= self._rests_until and arrival_s <= self.arrival_s - gain_s):
            self._missed = 0
        self._abreast = self._abreast or abreast
        self.arrival_s = arrival_s

    def miss(self, round_: int) -> None:
        """Note that a round waited for it up to the deadline, in vain: who keeps missing is waited for ever less."""
        self._missed += 1
        if self._missed > PATIENCE:
            self._rests_until = round_ + min(LONGEST_REST, 2 ** (self._missed - PATIENCE))
        self._abreast = self.waited_for = False

    def start_over(self) -> None:
        """Forget its failures: it is gone, or another life of it begins.

        Who is back is waited for once. Otherwise the halves of a healed network would go on side by side, one a round
        ahead, and never merge in the same round.
        """
        self.backoff.reset()
        self._missed, self._rests_until = 0, 0
        self._abreast = True

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
