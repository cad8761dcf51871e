"""Many participants in one process: they watch each other if they are told to, and whatever fails is heard of."""

from __future__ import annotations

from typing import Any

import pytest

from peermerge.node.config import SimulationConfig, load
from peermerge.node.membership.gossip import Gossiper
from peermerge.node.simulation.memory import play

TINY = {
    "simulation.nodes": 4,
    "schedule.rounds": 3,
    "schedule.local_steps": 1,
    "simulation.step_s": 2.0,
    "round.evaluate_every": 0,
    "log.checkpoint_every": 0,
    "task.arguments": {"width": 4, "hidden": 8},
}


def tiny(**over: Any) -> SimulationConfig:
    return load(SimulationConfig, None, TINY | {key.replace("__", "."): value for key, value in over.items()})


def test_members_gossip_to_the_end_if_they_are_told_to() -> None:
    talking, silent = play(tiny(simulation__gossip=True)), play(tiny())
    for node in talking.nodes:
        assert node.round == 3
        assert node.gossip.bytes_out > 0
        assert node.gossip.bytes_in > 0
    assert all(node.gossip.bytes_out == 0 for node in silent.nodes)


def test_gossip_among_the_healthy_changes_no_view_and_no_model() -> None:
    talking, silent = play(tiny(simulation__gossip=True)), play(tiny())
    assert {event["event"] for event in talking.events}.isdisjoint({"view", "suspect"})
    for one, other in zip(talking.nodes, silent.nodes, strict=True):
        assert one.log.state.digest == other.log.state.digest


def test_equal_seeds_give_equal_events_with_gossip_too() -> None:
    config = tiny(simulation__gossip=True)
    assert play(config).events == play(config).events


def test_that_everybody_meets_everybody_at_the_start_is_no_event() -> None:
    first = play(tiny()).events[:4]
    assert [event["event"] for event in first] == ["round_begin"] * 4


def test_a_failure_of_gossip_ends_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Gossiper) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Gossiper, "run", fail)
    with pytest.raises(ExceptionGroup) as caught:
        play(tiny(simulation__gossip=True))
    assert caught.value.subgroup(ZeroDivisionError) is not None
