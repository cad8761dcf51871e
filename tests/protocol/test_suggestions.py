from __future__ import annotations

import json
from typing import Any

import pytest

from peermerge.protocol.errors import ConfigError
from peermerge.protocol.limits import MAX_SUGGESTION_BYTES, MAX_SUGGESTIONS
from peermerge.protocol.suggestions import SUGGESTIBLE, read, write

GOOD: dict[str, Any] = {
    "topology.name": "ring",
    "topology.parameters": {"degree": 4},
    "topology.weights": "uniform",
    "schedule.rounds": 9,
    "schedule.local_steps": 5,
    "schedule.merge": "every",
    "schedule.every": 2,
    "schedule.final": "all",
    "publish.density": 0.05,
}


def test_only_topology_schedule_and_density_can_be_suggested() -> None:
    assert GOOD.keys() == SUGGESTIBLE.keys()
    assert {key.split(".")[0] for key in SUGGESTIBLE} == {"topology", "schedule", "publish"}


def test_what_is_written_is_read() -> None:
    assert read({key: write(key, value) for key, value in GOOD.items()}) == (GOOD, ())


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("task.name", '"mine:factory"'),
        ("node.data_dir", '"/"'),
        ("", "1"),
        ("topology.name", "ring"),
        ("topology.name", "5"),
        ("topology.name", "null"),
        ("topology.parameters", "[]"),
        ("topology.parameters", json.dumps({"a": "b" * MAX_SUGGESTION_BYTES})),
        ("topology.parameters", '{"a": ' + "[" * 500 + "]" * 500 + "}"),
        ("topology.parameters", "[" * 4000),
        ("schedule.rounds", "1.5"),
        ("schedule.rounds", "true"),
        ("schedule.rounds", "9" * 4000),
        ("publish.density", "NaN"),
        ("publish.density", "-Infinity"),
        ("publish.density", "0.1; import os"),
    ],
)
def test_what_does_not_fit_is_left_out_by_name(key: str, text: str) -> None:
    assert read({key: text, "topology.name": '"ring"'} | {key: text})[1] == (key,)


def test_a_flood_of_suggestions_is_cut() -> None:
    taken, ignored = read({f"a{i}": "1" for i in range(10 * MAX_SUGGESTIONS)} | {"topology.name": '"ring"'})
    assert not taken
    assert len(ignored) == 10 * MAX_SUGGESTIONS + 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("task.name", "x"), ("topology.name", 5), ("publish.density", float("inf")), ("topology.parameters", {"a": {1}})],
)
def test_what_nobody_would_read_is_not_written(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match="cannot be suggested"):
        write(key, value)


def test_a_whole_number_is_a_density_too() -> None:
    assert read({"publish.density": "1"}) == ({"publish.density": 1}, ())
