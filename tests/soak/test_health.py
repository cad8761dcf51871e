"""What a soak makes of its samples: slopes, drifts, rates, and which limit is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from .health import MIB, Sample, disk_bytes, drift, growth, lines_per_second, slope
from .limits import LIMITS, judged, table


def sample(time: float, rss: float = 0, lines: int = 0) -> Sample:
    return Sample(time, "n0", 1, int(rss * MIB), 0, 0, 0, lines)


def test_the_slope_is_that_of_the_least_squares_line() -> None:
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    assert slope([0, 1, 2], [1, 4, 1]) == pytest.approx(0)


def test_growth_counts_rounds_and_forgets_the_first() -> None:
    ends = [float(second) for second in range(1000)]
    jump = [sample(time, rss=100 if time < 100 else 300 + 0.004 * time) for time in range(0, 1000, 5)]
    assert growth(jump, ends, skip=101, least=600) == pytest.approx(4, rel=0.01)


def test_growth_says_nothing_of_a_short_life() -> None:
    ends = [float(second) for second in range(500)]
    assert growth([sample(time) for time in range(0, 500, 5)], ends, skip=100, least=600) is None


def test_drift_compares_the_end_with_the_beginning_and_ignores_outliers() -> None:
    assert drift([10, 10, 90, 10, 10, 50, 60, 13, 13, 13, 1, 14], 5) == 3


def test_lines_are_counted_over_some_seconds() -> None:
    burst = [sample(time, lines=20 if time >= 4 else 0) for time in range(20)]
    assert lines_per_second(burst) == pytest.approx(4)
    assert lines_per_second(burst[:3]) == 0


def test_the_disk_is_counted_but_for_events(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "1.delta").write_bytes(bytes(100))
    (tmp_path / "events.jsonl").write_bytes(bytes(5000))
    assert disk_bytes(tmp_path) == 100


def test_a_broken_limit_is_marked_and_an_unknown_figure_has_none() -> None:
    verdict = judged({"exit_s": 7.0, "mishaps": 2, "seconds": 60.0, "ended_by_themselves": 0}, short=False)
    assert [figure.kept for figure in verdict] == [False, False, True, True]
    assert table(verdict).count("BROKEN") == 2


def test_what_is_not_a_number_breaks_its_limit() -> None:
    assert not judged({"exit_s": float("nan")}, short=True)[0].kept


def test_short_runs_are_not_judged_by_what_takes_long() -> None:
    over = dict.fromkeys((name for name, limit in LIMITS.items() if limit.short is None), 1e9)
    assert over
    assert all(figure.kept for figure in judged(over, short=True))
    assert not any(figure.kept for figure in judged(over, short=False))
