"""Schedules: a pure function from the round to what a node does in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..protocol.errors import ConfigError
from .registry import nearest

Merge = Literal["every", "none", "final"]
Final = Literal["none", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How training and merging alternate.

    rounds: 0 means without end. local_steps: optimizer steps a round; 0 only gossips.
    merge: "every" merges after each `every`-th round, "none" trains alone, "final" merges in the last round only.
    final: "all" lets the last round merge with every member, whatever the topology and `merge` say; the late
    merge of "A Single Merging Suffices" (arXiv 2507.06542) is every = some, final = "all"; one-shot merging is
    merge = "none", final = "all".
    """

    rounds: int = 0
    local_steps: int = 100
    merge: Merge = "every"
    every: int = 1
    final: Final = "none"

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot be followed."""
        _at_least("rounds", self.rounds, 0)
        _at_least("local_steps", self.local_steps, 0)
        _at_least("every", self.every, 1)
        _one_of("merge", self.merge, get_args(Merge))
        _one_of("final", self.final, get_args(Final))
        if self.rounds == 0 and (self.merge == "final" or self.final == "all"):
            raise ConfigError("rounds = 0 has no last round to merge in: give a number of rounds")


@dataclass(frozen=True, slots=True)
class Plan:
    """What one round does: train `local_steps`, then merge or not, with the neighbours or with everyone."""

    round: int
    local_steps: int
    merge: bool
    everyone: bool


def plan(schedule: Schedule, round_: int) -> Plan:
    """Return the plan of a round; rounds count from 0. Raises ValueError outside the schedule."""
    if round_ < 0 or 0 < schedule.rounds <= round_:
        raise ValueError(f"round {round_} lies outside the {schedule.rounds} rounds of the schedule")
    last = round_ + 1 == schedule.rounds
    everyone = last and schedule.final == "all"
    due = schedule.merge == "every" and (round_ + 1) % schedule.every == 0
    merge = due or everyone or (last and schedule.merge == "final")
    return Plan(round_, schedule.local_steps, merge, everyone)


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} = {value}: give {least} or more")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} = {value!r}: {nearest(value, known)}")
