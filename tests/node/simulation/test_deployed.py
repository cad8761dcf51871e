"""Every ready-made simulation loads and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation.outcome import Unobserved
from peermerge.node.simulation.run import simulate

FOLDER = Path(__file__).parents[3] / "deploy" / "simulations"
FILES = sorted(FOLDER.glob("*.toml"))


def test_there_are_some() -> None:
    assert {"demo", "ring-0.2m", "one-shot", "late-merge", "ties"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_and_the_readme_speaks_of_it(file: Path, tmp_path: Path) -> None:
    small = {
        "schedule.rounds": 2,
        "schedule.local_steps": 1,
        "simulation.baselines": [],
        "simulation.network": "memory",
    }
    done = simulate(load(SimulationConfig, file, small), tmp_path, Unobserved())
    assert set(done.summary.finished_rounds.values()) == {2}
    assert file.name in (FOLDER / "README.md").read_text()
