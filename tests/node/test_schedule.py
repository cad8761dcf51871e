from typing import Any

import pytest

from peermerge.node.schedule import Plan, Schedule, plan
from peermerge.protocol.errors import ConfigError


def merging_rounds(schedule: Schedule, rounds: int) -> list[int]:
    return [round_ for round_ in range(rounds) if plan(schedule, round_).merge]


def test_every_round_merges_by_default() -> None:
    assert merging_rounds(Schedule(rounds=4), 4) == [0, 1, 2, 3]


def test_every_third_round_merges() -> None:
    assert merging_rounds(Schedule(rounds=8, every=3), 8) == [2, 5]


def test_training_alone_never_merges() -> None:
    assert merging_rounds(Schedule(rounds=8, merge="none"), 8) == []


def test_the_final_merge_is_with_the_neighbours() -> None:
    schedule = Schedule(rounds=8, merge="final")
    assert merging_rounds(schedule, 8) == [7]
    assert not plan(schedule, 7).everyone


@pytest.mark.parametrize("merge", ["every", "none", "final"])
def test_the_last_round_merges_with_everyone_whatever_the_others_do(merge: Any) -> None:
    schedule = Schedule(rounds=5, local_steps=3, merge=merge, every=7, final="all")
    assert plan(schedule, 4) == Plan(4, 3, merge=True, everyone=True)
    assert not any(plan(schedule, round_).everyone for round_ in range(4))


def test_a_schedule_without_end_goes_on() -> None:
    assert plan(Schedule(rounds=0, every=2), 10**9 + 1).merge


@pytest.mark.parametrize("round_", [-1, 5])
def test_rounds_outside_the_schedule_have_no_plan(round_: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        plan(Schedule(rounds=5), round_)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rounds": -1}, "rounds = -1"),
        ({"local_steps": -1}, "local_steps = -1"),
        ({"every": 0}, "every = 0"),
        ({"merge": "evry"}, "did you mean 'every'"),
        ({"final": "al"}, "did you mean 'all'"),
        ({"rounds": 0, "merge": "final"}, "no last round"),
        ({"rounds": 0, "final": "all"}, "no last round"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Schedule(**{"rounds": 3, **wrong})
