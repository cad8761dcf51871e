"""The command: flags over a file, JSON alone on stdout, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from peermerge.node.commands.simulate import chosen, simulate
from peermerge.node.simulation import run
from peermerge.node.simulation.outcome import NodeFailed
from peermerge.node.simulation.run import Simulated
from peermerge.protocol.errors import ConfigError

app = typer.Typer()
app.command()(simulate)
QUICK = ["-n", "3", "--rounds", "2", "--local-steps", "2", "--baselines", "none"]


def test_json_is_all_that_goes_to_stdout(tmp_path: Path) -> None:
    flags = ["--partition", "classes", "--topology", "ring", "--density", "0.05", "--seed", "3"]
    done = CliRunner().invoke(app, [*QUICK, *flags, "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["config"]["task"]["arguments"] == {"partition": "classes"}
    assert (summary["topology"], summary["seed"], summary["config"]["publish"]["density"]) == ("ring", 3, 0.05)


def test_without_json_a_table_compares(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*QUICK[:-1], "alone", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert "alone, never merging" in done.stdout
    assert "models sent per node" in done.stdout


def test_a_node_that_did_not_finish_is_an_error_after_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.simulate
    monkeypatch.setattr(run, "simulate", lambda *given: Simulated(real(*given).summary, ["n0001 finished 1 of 2"]))
    done = CliRunner().invoke(app, [*QUICK, "--json", "--out", str(tmp_path)])
    assert isinstance(done.exception, NodeFailed)
    assert json.loads(done.stdout)["nodes"] == 3


def test_baselines_are_a_list_or_none() -> None:
    assert chosen(None) is None
    assert chosen("none") == []
    assert chosen("alone, central") == ["alone", "central"]
    with pytest.raises(ConfigError, match="--baselines"):
        chosen("alone,,central")
