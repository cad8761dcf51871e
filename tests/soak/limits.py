"""What a soak may show at most, and the table that says whether it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """The most (or the least) that a figure may be; None: not judged in a short run."""

    long: float
    short: float | None
    least: bool = False


LIMITS: dict[str, Limit] = {
    "mishaps": Limit(10, 3, least=True),
    "rounds": Limit(100, 10, least=True),
    "damaged_requests": Limit(1000, 50, least=True),
    "damaged_requests_not_refused": Limit(0, 0),
    "rss_mib_per_1000_rounds": Limit(2, None),
    "fds_grown": Limit(2, 32),
    "threads_grown": Limit(2, 8),
    "disk_mib": Limit(10, 10),
    "lines_per_peer_and_second": Limit(1, 1),
    "ended_by_themselves": Limit(0, 0),
    "invariants_violated": Limit(0, 0),
    "views_differ_s": Limit(10, 10),
    "exit_s": Limit(5, 5),
    "exits_not_0": Limit(0, 0),
    "accuracy_lost_points": Limit(1.5, None),
}
"""A short run ends soon after its last mishap: connections of then are still open, threads still being started."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure beside its limit."""

    name: str
    value: float
    limit: float | None
    least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the limit is kept, if there is one; what is not a number keeps none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.least else self.value <= self.limit


def judged(figures: Mapping[str, float], *, short: bool) -> list[Figure]:
    """Set every figure beside its limit."""
    found = []
    for name, value in figures.items():
        limit = LIMITS.get(name)
        most = None if limit is None else limit.short if short else limit.long
        found.append(Figure(name, value, most, limit is not None and limit.least))
    return found


def table(verdict: Sequence[Figure]) -> str:
    """Return the figures as text; a broken limit is marked."""
    lines = [f"{'figure':32}{'value':>12}  limit"]
    for each in verdict:
        limit = "" if each.limit is None else f"{'at least' if each.least else 'at most'} {each.limit:g}"
        lines.append(f"{each.name:32}{each.value:12.6g}  {limit}{'' if each.kept else '   BROKEN'}")
    return "\n".join(lines)
