"""Hundreds of seeded fault schedules over eight real participants in virtual time: no invariant is ever violated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .checker import Violation
from .schedules import KINDS, NODES, OF_LIVES, Planned, Schedule, draw
from .simulator import Outcome, play, simulate

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
QUICK, ALL, CHUNK = 200, 1000, 5
FIRED = {"loss": "lost", "duplicates": "doubled", "resets": "reset", "partition": "stopped", "one-way": "stopped"}
"""What shows that a fault did something, where it is not counted under its own name."""


def firsts() -> list[object]:
    """Return the first seed of each chunk; those beyond the quick ones are slow."""
    late = [pytest.param(first, marks=pytest.mark.slow) for first in range(QUICK, ALL, CHUNK)]
    return [*range(0, QUICK, CHUNK), *late]


@pytest.mark.parametrize("first", firsts())
def test_no_schedule_violates_an_invariant(first: int) -> None:
    outcomes = [simulate(seed) for seed in range(first, first + CHUNK)]
    failed = [outcome.report for outcome in outcomes if outcome.violations]
    assert not failed, "\n\n".join(failed)
    planned = {fault.kind for outcome in outcomes for fault in outcome.schedule.faults}
    fired = sum((outcome.fired for outcome in outcomes), Counter[str]())
    missed = planned - {kind for kind in KINDS if fired[FIRED.get(kind, kind)]}
    # One that is planned once may strike where nothing happens: a disk nobody writes to, a link without a transfer.
    assert len(missed) <= 1, fired


def test_a_seed_replays_byte_for_byte_in_any_process() -> None:
    here = simulate(6)
    assert simulate(6).events == here.events
    assert simulate(7).events != here.events
    command = [sys.executable, "-m", "tests.faults.simulator", "6"]
    there = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, timeout=120
    )
    assert f"events: sha256 {here.digest}" in there.stdout, there.stderr


def test_the_report_of_a_failed_seed_says_how_to_replay_it_and_what_was_done() -> None:
    schedule = draw(3)
    report = Outcome(schedule, simulate(3).run, [Violation("I1", "n1", "planted")], Counter()).report
    assert "python -m tests.faults.simulator 3" in report
    assert all(str(fault) in report for fault in schedule.faults)
    assert "planted" in report


@pytest.mark.parametrize("joins", [4.1, 6.0])
def test_who_starts_while_its_seeds_cannot_be_reached_is_met_soon_after_they_can(joins: float) -> None:
    cut = Planned("partition", 4.0, 12.0, NODES[:2], NODES[2:])
    join = Planned("join", joins, joins, NODES[5:6])
    outcome = play(Schedule(0, {"topology.name": "ring"}, dict.fromkeys(NODES, 1.6), (cut, join), rounds=8))
    assert outcome.fired["stopped"]
    assert not outcome.violations, outcome.report


def test_who_was_introduced_by_a_member_that_left_at_once_is_known_to_all_soon() -> None:
    outcome = simulate(756)  # n3 comes in through n1, which is leaving and tells nobody any more
    assert not outcome.violations, outcome.report
    assert {"join", "leave"} <= outcome.fired.keys()


def test_schedules_follow_from_their_seeds() -> None:
    drawn = [draw(seed) for seed in range(ALL)]
    assert drawn == [draw(seed) for seed in range(ALL)]
    assert {fault.kind for schedule in drawn for fault in schedule.faults} == set(KINDS)
    for schedule in drawn:
        assert len({fault.kind for fault in schedule.faults}) >= 3
        mortal = [fault.nodes for fault in schedule.faults if fault.kind in OF_LIVES]
        assert len(mortal) == len(set(mortal)), "nobody dies twice"
        assert {name for fault in schedule.faults for name in fault.nodes + fault.others} <= set(NODES)
