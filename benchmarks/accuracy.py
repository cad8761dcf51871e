"""What compression costs in accuracy: sparse published states against dense exchange, paired by seed.

8 nodes, Fashion-MNIST (6,000 / 2,000 images, Debian package dataset-fashion-mnist), 0.2 M parameters, 100 rounds of
10 steps, ring and complete graph, IID and Dirichlet 0.1; densities 10 % and 1 % against lossless frames. Prints for
each cell the mean difference to dense exchange over the seeds and its standard error, of the mean model and of the
mean of the nodes (their merged models), and whether the consensus distance grew over the last half of the rounds.

Runs that are done are kept in the cache folder, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _common import ERR, arguments, show, write
from rich.progress import track

BUDGETS: dict[str, dict[str, Any]] = {
    "dense": {"publish.lossless": True},
    "10%": {"publish.density": 0.1},
    "1%": {"publish.density": 0.01},
}
Cell = tuple[str, str, str, int]


def run(cell: Cell, rounds: int, cache: Path, task: str) -> dict[str, float]:
    """Play one cell, or read it from the cache; return its figures."""
    topology, partition, budget, seed = cell
    over: dict[str, Any] = {
        "task.name": task,
        "task.arguments.partition": partition,
        "seed": seed,
        "topology.name": topology,
        "schedule.rounds": rounds,
        "schedule.local_steps": 10,
        "round.evaluate_every": 0,
        "log.checkpoint_every": 0,
        "simulation.nodes": 8,
        "simulation.baselines": [],
        **BUDGETS[budget],
    }
    if task == "fashion":
        over["task.arguments.hidden"] = 256
    path = cache / f"{hashlib.sha256(repr(sorted(over.items())).encode()).hexdigest()[:16]}.json"
    if path.exists():
        kept: dict[str, float] = json.loads(path.read_text())
        return kept
    figures = _play(over)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**figures, "cell": list(cell)}))
    return figures


def _play(over: dict[str, Any]) -> dict[str, float]:
    from peermerge.node.config import SimulationConfig, load
    from peermerge.node.simulation.memory import play

    config = load(SimulationConfig, None, over)
    played = play(config)
    nodes = played.nodes
    rounds = [e for e in played.events if e["event"] == "round"]
    last = [e for e in rounds if e["round"] == config.schedule.rounds - 1]
    spread: dict[int, float] = {}
    for event in rounds:
        spread[event["round"]] = spread.get(event["round"], 0.0) + event["consensus"] / len(nodes)
    half = config.schedule.rounds // 2
    first = nodes[0]
    first.params.tau.copy_(torch.stack([n.params.tau for n in nodes]).sum(0) / len(nodes))
    first.params.write()
    return {
        "mean_model": first.workload.evaluate()["accuracy"],
        "nodes": statistics.fmean(e["metrics"]["accuracy"] for e in last),
        "live": statistics.fmean(e["live"]["accuracy"] for e in last),
        "growth": _slope([spread[r] for r in range(half, config.schedule.rounds)]),
        "bytes": statistics.fmean(n.peers.bytes_out for n in nodes),
        "parameters": first.manifest.parameters,
    }


def _slope(values: list[float]) -> float:
    """Return the relative change of the least-squares line over the values: negative means that they fall."""
    if len(values) < 2:
        return 0.0
    slope, _ = statistics.linear_regression(range(len(values)), values)
    return slope * len(values) / max(statistics.fmean(values), 1e-12)


def cells(seeds: int, quick: bool) -> Iterator[Cell]:
    """Yield the cells seed by seed, 1 % last, so that an interrupted benchmark has whole pairs."""
    partitions = ["dirichlet:0.1"] if quick else ["iid", "dirichlet:0.1"]
    for budgets in (["dense", "10%"], ["1%"]):
        for seed, topology, partition, budget in product(range(seeds), ["ring", "complete"], partitions, budgets):
            yield topology, partition, budget, seed


def main() -> None:
    """Run the cells that are missing and print the comparison."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--task", default="fashion")
    parser.add_argument("--cache", type=Path, default=Path("bench-out/accuracy"))
    given = parser.parse_args()
    seeds = 1 if given.quick else given.seeds
    rounds = 10 if given.quick else given.rounds
    task = "digits" if given.quick else given.task
    todo = list(cells(seeds, given.quick))
    with ProcessPoolExecutor(given.jobs) as pool:
        size = len(todo)
        played = pool.map(run, todo, [rounds] * size, [given.cache] * size, [task] * size)
        results = dict(track(zip(todo, played, strict=True), "playing", total=size, console=ERR))
    report(results, given.json)


def report(results: dict[Cell, dict[str, float]], path: Path | None) -> None:
    """Print and write the paired differences."""
    rows: list[list[object]] = []
    figures: dict[str, float | int | str] = {}
    for topology, partition, budget in dict.fromkeys(c[:3] for c in results):
        mine = {c[3]: r for c, r in results.items() if c[:3] == (topology, partition, budget)}
        row: list[object] = [f"{topology}, {partition}, {budget}", len(mine)]
        for key in ("mean_model", "nodes", "live"):
            gaps = [100 * (r[key] - results[topology, partition, "dense", s][key]) for s, r in mine.items()]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            gap = statistics.fmean(gaps)
            row += [100 * statistics.fmean(r[key] for r in mine.values()), f"{gap:+.2f} ± {error:.2f}"]
            figures[f"{topology}_{partition}_{budget}_{key}_gap".replace(":", "").replace("%", "pct")] = gap
        growth = statistics.fmean(r["growth"] for r in mine.values())
        row += [f"{growth:+.3f}", statistics.fmean(r["bytes"] for r in mine.values()) / 1e6]
        rows.append(row)
    columns = ["cell", "seeds", "mean model %", "to dense", "nodes %", "to dense", "live %", "to dense"]
    show("accuracy against dense exchange (points)", [*columns, "distance, last half", "MB a node"], rows)
    write(path, figures)


if __name__ == "__main__":
    main()
