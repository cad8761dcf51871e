"""When to ask a peer again whose transfers fail: soon after the first failure, ever later after more of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

FIRST_S = 0.2
GROWTH = 1.6
CAP_S = 5.0
JITTER = 0.2
"""Pauses are longer or shorter by up to this share: those whom one fault hit do not come back all at once."""
_STEPS = 16
"""So many growths are beyond the cap, whatever the jitter."""


def pause_s(failures: int, rng: Random) -> float:
    """Return the seconds to wait after so many failures in a row."""
    usual = min(CAP_S, FIRST_S * GROWTH ** min(failures - 1, _STEPS))
    return usual * rng.uniform(1 - JITTER, 1 + JITTER)


@dataclass(slots=True)
class Backoff:
    """The failures of one peer that run, and when it may be asked again."""

    failures: int = 0
    due: float = 0.0

    def fail(self, now: float, rng: Random) -> None:
        """Count a failure and put the next attempt off."""
        self.failures += 1
        self.due = now + pause_s(self.failures, rng)

    def reset(self) -> None:
        """Start over: it answered, or it is not what it was."""
        self.failures, self.due = 0, 0.0

    def left_s(self, now: float) -> float:
        """Return the seconds until the next attempt."""
        return max(0.0, self.due - now)
