from __future__ import annotations

import pytest

from peermerge.node.events import EventList
from peermerge.node.narrate import Narrated, sentence

ROUND = {"round": 4, "metrics": {"accuracy": 0.91234}, "merged": {"b": 0.5}, "bytes_out": 1_500_000}


def test_a_round_says_what_was_reached_who_was_merged_and_what_was_sent() -> None:
    assert sentence("round", ROUND, 30) == "round 5/30, accuracy 0.9123; merged b; 1.50 MB sent so far"
    assert sentence("round", ROUND | {"merged": {}, "metrics": {}}, 0) == "round 5; merged nobody; 1.50 MB sent so far"


@pytest.mark.parametrize(
    ("event", "fields", "word"),
    [
        ("start", {"address": "127.0.0.1:1", "round": 3}, "127.0.0.1:1"),
        ("missing", {"addresses": ["127.0.0.1:2"]}, "without 127.0.0.1:2"),
        ("log_epoch", {"epoch": 2}, "epoch 2"),
        ("degraded", {"reason": "no space"}, "DEGRADED: no space"),
        ("finished", {"round": 30}, "done"),
        ("stop", {"round": 30}, "round 30"),
    ],
)
def test_events_that_a_person_cares_about_are_said(event: str, fields: dict[str, object], word: str) -> None:
    assert word in str(sentence(event, fields, 30))


def test_every_event_is_recorded_and_only_telling_ones_are_said() -> None:
    inner, said = EventList("a"), list[str]()
    narrated = Narrated(inner, 30, said.append)
    narrated.emit("round", **ROUND)
    narrated.emit("something", x=1)
    assert [e["event"] for e in inner.events] == ["round", "something"]
    assert len(said) == 1


def test_who_comes_and_goes_is_said_but_not_of_ourselves() -> None:
    gone = {"name": "b", "state": "left"}
    assert sentence("view", gone | {"members": 2}, 0) == "b has left: 2 members"
    assert sentence("view", gone | {"members": 1}, 0) == "b has left: 1 member"
    assert sentence("view", gone | {"members": 0}, 0) is None
