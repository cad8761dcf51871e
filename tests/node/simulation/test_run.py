"""A whole simulation on the memory network: its files, its figures, its determinism."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation import report
from peermerge.node.simulation.outcome import Unobserved
from peermerge.node.simulation.run import simulate
from peermerge.protocol.errors import ConfigError

TINY = {
    "simulation.nodes": 3,
    "schedule.rounds": 3,
    "schedule.local_steps": 4,
    "publish.density": 0.3,
    "task.arguments.partition": "dirichlet:0.3",
}


def tiny(**over: Any) -> SimulationConfig:
    return load(SimulationConfig, None, TINY | {key.replace("__", "."): value for key, value in over.items()})


class Notes(Unobserved):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[tuple[str, int]] = []
        self.rounds = 0

    def phase(self, title: str, rounds: int) -> None:
        self.phases.append((title, rounds))

    def round(self, node: str, round_: int, fields: Mapping[str, Any]) -> None:
        self.rounds += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    simulate(tiny(), folder, Unobserved())
    return folder


def test_the_summary_holds_the_run_and_its_baselines(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished_rounds"] == {"n0000": 3, "n0001": 3, "n0002": 3}
    assert 0 < summary["models_per_node_neighbour_round"] < 0.2
    assert summary["bytes_sent_per_node"] == pytest.approx(sum(summary["bytes_sent"].values()) / 3)
    assert summary["consensus_distance"] > 0
    assert set(summary["metrics"]) == {"merged", "alone", "dense", "central"}
    for key in ("mean_model", "nodes_mean", "alone_mean", "dense_mean_model", "central"):
        assert 0 < summary[f"accuracy_{key}"] <= 1
    # Sparse frames cost a fraction of dense ones, and dense exchange makes the nodes agree.
    assert summary["bytes_sent_per_node"] < 0.2 * summary["metrics"]["dense"]["bytes_sent_per_node"]


def test_equal_seeds_give_equal_events_byte_for_byte(out: Path, tmp_path: Path) -> None:
    simulate(tiny(simulation__baselines=[]), tmp_path, Unobserved())
    assert (tmp_path / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    simulate(tiny(simulation__baselines=[], seed=1), tmp_path, Unobserved())
    assert (tmp_path / "metrics.jsonl").read_bytes() != (out / "metrics.jsonl").read_bytes()


def test_events_are_one_sorted_object_a_line_without_any_wall_time(out: Path) -> None:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert lines == [json.dumps(event, sort_keys=True) for event in events]
    assert sum(event["event"] == "round" for event in events) == 9
    assert not any("time" in event for event in events)


def test_the_report_is_one_file_that_asks_for_no_other(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5
    assert not re.findall(r"(?:src|href)=['\"](?!#|data:)|url\((?!['\"]?#)|@import", page)
    assert "alone, never merging" in page


def test_the_observer_hears_of_every_part_and_round(tmp_path: Path) -> None:
    notes = Notes()
    simulate(tiny(simulation__baselines=["alone", "central"]), tmp_path, notes)
    assert notes.phases == [("merging", 9), ("baseline: alone", 9), ("baseline: central", 3)]
    assert notes.rounds == 21


def test_without_matplotlib_one_sentence_says_what_brings_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    notes = Notes()
    simulate(tiny(simulation__baselines=[], schedule__rounds=1), tmp_path, notes)
    assert notes.notes == ["No report.html: matplotlib is not installed; pip install 'peermerge[examples]' brings it."]
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"topology__name": "rinng"}, "ring"),
        ({"merge__method": "tis"}, "ties"),
        ({"task__name": "digit"}, "digits"),
        ({"schedule__rounds": 0}, "never ends"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(over: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        simulate(tiny(**over), tmp_path / "out", Unobserved())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_the_user_s_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        simulate(tiny(), tmp_path / "file" / "out", Unobserved())
