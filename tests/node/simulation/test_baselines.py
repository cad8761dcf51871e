"""The baselines change what they are about and nothing else."""

from __future__ import annotations

from peermerge.node.config import SimulationConfig, differences, load
from peermerge.node.simulation.baselines import alone, central, dense

CONFIG = load(SimulationConfig, None, {"publish.bits": 1.0, "schedule.final": "all", "topology.name": "ring"})


def changed(other: SimulationConfig) -> set[str]:
    return {line.split(":")[0] for line in differences(CONFIG.model_dump(), other.model_dump())}


def test_alone_never_merges() -> None:
    assert changed(alone(CONFIG)) == {"schedule.merge", "schedule.final"}


def test_dense_sends_everything() -> None:
    assert changed(dense(CONFIG)) == {"publish.bits", "publish.lossless"}


def test_central_is_one_node_with_as_many_steps() -> None:
    one = central(CONFIG)
    assert one.simulation.nodes == 1
    assert one.schedule.merge == "none"
    assert (one.schedule.rounds, one.schedule.local_steps) == (CONFIG.schedule.rounds, CONFIG.schedule.local_steps)
