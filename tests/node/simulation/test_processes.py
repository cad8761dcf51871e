"""Real daemons on loopback, from start to figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peermerge.node.config import NodeConfig, SimulationConfig, load
from peermerge.node.simulation import processes
from peermerge.node.simulation.daemons import prepare
from peermerge.node.simulation.outcome import NodeFailed, Unobserved
from peermerge.node.simulation.run import simulate

TINY = {
    "simulation.network": "grpc",
    "simulation.nodes": 2,
    "simulation.baselines": [],
    "schedule.rounds": 2,
    "schedule.local_steps": 2,
}


def test_two_daemons_finish_and_are_measured(tmp_path: Path) -> None:
    done = simulate(load(SimulationConfig, None, TINY), tmp_path, Unobserved())
    assert done.failures == []
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished_rounds"] == {"n0000": 2, "n0001": 2}
    assert summary["bytes_sent_per_node"] > 0
    assert summary["seconds_per_round_beyond_training"] > 0
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "round" for event in events) == 4


def test_a_node_that_does_not_start_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: SimulationConfig, out: Path) -> list[NodeConfig]:
        nodes = prepare(config, out)
        (out / "nodes" / "n0001" / "node.toml").write_text("sneed = 1\n")
        return nodes

    monkeypatch.setattr(processes, "prepare", broken)
    with pytest.raises(NodeFailed, match=r"(?s)n0001 did not start: exit status 2.*unknown key 'sneed'"):
        simulate(load(SimulationConfig, None, TINY), tmp_path, Unobserved())
