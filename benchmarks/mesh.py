"""Real daemons on loopback: does every node finish every round, how long does a round take, what does it send.

8 nodes of the task digits-wide (0.2 M parameters) at density 1 %, ring and complete graph, over gRPC: many short runs
and a long one of pure merging (no training, nodes start apart), and a short one that trains 10 steps a round. No
evaluation before the end, so that a round is publishing, waiting, merging and, every 10th round, a checkpoint.
Prints per cell how many nodes finished every round, the seconds of a round (last end minus first end, over the rounds
between), the part beyond training, and the dense models' worth of bytes per node, neighbour and round: at this
density at most 0.005, greetings and requests included.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from _common import ERR, arguments, show, write

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation.outcome import NodeFailed, Unobserved
from peermerge.node.simulation.run import simulate
from peermerge.node.simulation.summary import Summary

BUDGET = 0.005
"""Dense models per node, neighbour and round."""
APART = 0.1
"""Standard deviation of the nodes' starts where nothing is trained."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of run, and how often it is made."""

    topology: str
    local_steps: int
    rounds: int
    runs: int

    @property
    def key(self) -> str:
        """Its name among the flat figures."""
        return f"{self.topology}_{'trained' if self.local_steps else 'merging'}_{self.rounds}"


@dataclass(slots=True)
class Tally:
    """What the runs of one cell came to."""

    nodes: int = 0
    finished: int = 0
    seconds: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    models: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, summary: Summary, seconds: float) -> None:
        """Take up one run."""
        self.finished += sum(done >= summary.rounds for done in summary.finished_rounds.values())
        self.seconds.append(seconds)
        self.beyond.append(summary.seconds_per_round_beyond_training or 0.0)
        self.models.append(summary.models_per_node_neighbour_round or 0.0)


def cells(runs: int, rounds: int, long: int) -> Iterator[Cell]:
    """Yield the cells of a whole benchmark; `long` are the rounds of the long run, 0 for none."""
    for topology in ("ring", "complete"):
        yield Cell(topology, 0, rounds, runs)
        if long:
            yield Cell(topology, 0, long, 1)
            yield Cell(topology, 10, rounds, 1)


def configuration(cell: Cell, nodes: int, seed: int) -> SimulationConfig:
    """Return the simulation of one run."""
    over: dict[str, Any] = {
        "seed": seed,
        "task.name": "digits-wide",
        "topology.name": cell.topology,
        "publish.density": 0.01,
        "schedule.rounds": cell.rounds,
        "schedule.local_steps": cell.local_steps,
        "round.evaluate_every": 0,
        "simulation.nodes": nodes,
        "simulation.network": "grpc",
        "simulation.baselines": [],
        "simulation.start_noise": 0.0 if cell.local_steps else APART,
    }
    return load(SimulationConfig, None, over)


def run(cell: Cell, nodes: int, folder: Path) -> Tally:
    """Make the runs of one cell, each with a seed of its own."""
    tally = Tally()
    for seed in range(cell.runs):
        tally.nodes += nodes
        out = folder / f"{cell.key}-{seed}"
        try:
            done = simulate(configuration(cell, nodes, seed), out, Unobserved())
        except NodeFailed as failed:
            tally.failures.append(f"seed {seed}: {failed}")
            continue
        tally.add(done.summary, seconds_per_round(out / "nodes", cell.rounds))
        tally.failures += [f"seed {seed}: {each}" for each in done.failures]
        news = f"{tally.seconds[-1]:.3f} s, {tally.models[-1]:.5f} models"
        ERR.print(f"{cell.key} {seed}: {tally.finished}/{tally.nodes}, {news}", highlight=False)
        shutil.rmtree(out)
    return tally


def seconds_per_round(nodes: Path, rounds: int) -> float:
    """Return the mean seconds from one round's end to the next, from the nodes' events."""
    spans = []
    for path in nodes.glob("*/events.jsonl"):
        ends = [e["time"] for e in map(json.loads, path.read_text().splitlines()) if e["event"] == "round"]
        spans += [(ends[-1] - ends[0]) / (rounds - 1)] if len(ends) == rounds > 1 else []
    return statistics.fmean(spans) if spans else float("nan")


def report(tallies: dict[Cell, Tally], path: Path | None) -> None:
    """Print the table and every failure, and write the figures."""
    rows: list[list[object]] = []
    figures: dict[str, float | int | str] = {}
    for cell, tally in tallies.items():
        means = [statistics.fmean(x or [float("nan")]) for x in (tally.seconds, tally.beyond, tally.models)]
        models = max(tally.models, default=float("nan"))
        rows.append([cell.key, cell.runs, f"{tally.finished}/{tally.nodes}", *means, models])
        named = dict(zip(("seconds_per_round", "seconds_beyond_training", "models"), means, strict=True))
        named |= {
            "runs": cell.runs,
            "nodes_finished": tally.finished,
            "nodes_started": tally.nodes,
            "models_max": models,
        }
        figures |= {f"{name}_{cell.key}": value for name, value in named.items()}
        for failure in tally.failures:
            ERR.print(f"{cell.key} {failure}", markup=False, highlight=False)
    columns = ["cell", "runs", "nodes that finished", "s a round", "beyond training", "models", f"most (<= {BUDGET})"]
    show("daemons on loopback", columns, rows)
    write(path, figures)


def main() -> None:
    """Run the cells one after another."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--runs", type=int, default=20, help="short runs per topology")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of a short run")
    parser.add_argument("--long", type=int, default=300, help="rounds of the long run; 0 leaves it and training out")
    given = parser.parse_args()
    nodes = 4 if given.quick else given.nodes
    todo = [Cell("ring", 0, 5, 1)] if given.quick else list(cells(given.runs, given.rounds, given.long))
    folder = Path(mkdtemp(prefix="peermerge-mesh-"))
    try:
        report({cell: run(cell, nodes, folder) for cell in todo}, given.json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
