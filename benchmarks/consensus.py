"""Pure consensus: nodes that start apart and only merge. Do they draw together, and does their mean stay?

8 nodes of the task digits, 300 rounds without training, on the ring, the complete and the exponential graph, at
densities 1 % and 10 %, on a sound network and with 5 % of the messages lost until five rounds before the end. Prints
for each cell the distance to the mean (root mean square over the nodes) at the start and at the end, in how many
rounds it rose above the grid, and how far any entry of the mean moved from its start, relative to the largest weight:
at worst on the way, where a lost message is paid back later, and at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from _common import ERR, arguments, show, write
from torch import Tensor

from peermerge.node.config import SimulationConfig, load
from peermerge.node.participant import Participant
from peermerge.node.simulation.memory import play

REPAID = 5
"""Rounds at the end without losses."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    topology: str
    density: float
    loss: float

    @property
    def key(self) -> str:
        """Its name among the flat figures."""
        return f"{self.topology}_{100 * self.density:g}pct{'_lossy' if self.loss else ''}"


@dataclass(frozen=True, slots=True)
class Moment:
    """All nodes after the same round."""

    distance: float
    mean: Tensor
    largest: float


class Recorder:
    """Watches the nodes of a simulation and sums up every round that all of them have ended."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._waiting: dict[int, list[Tensor]] = {}
        self.moments: list[Moment] = []
        self.grid = 0.0

    def __call__(self, node: Participant) -> None:
        """Take up one node's task vector."""
        node.params.collect()
        taus = self._waiting.setdefault(node.round, [])
        taus.append(node.params.tau.clone())
        if len(taus) == self._nodes:
            self.moments.append(moment(torch.stack(self._waiting.pop(node.round)), node.params.base))
            self.grid = grid(node)


def moment(taus: Tensor, base: Tensor) -> Moment:
    """Sum up the nodes' task vectors, (nodes, length), in float64."""
    exact = taus.double()
    mean = exact.mean(0)
    distance = float((exact - mean).square().sum(1).mean().sqrt())
    return Moment(distance, mean, float((base.double() + exact).abs().max()))


def grid(node: Participant) -> float:
    """Return how far apart two states are whose entries all differ by one step of the finest grid."""
    floors = node.log.state.floors.tolist()
    squares = [spec.size * 4.0**floor for spec, floor in zip(node.manifest.tensors, floors, strict=True)]
    return float(sum(squares) ** 0.5)


def run(cell: Cell, rounds: int, nodes: int) -> Recorder:
    """Play one cell."""
    over: dict[str, Any] = {
        "topology.name": cell.topology,
        "publish.density": cell.density,
        "schedule.rounds": rounds,
        "schedule.local_steps": 0,
        "round.evaluate_every": 0,
        "log.checkpoint_every": 0,
        "simulation.nodes": nodes,
        "simulation.start_noise": 0.1,
        "simulation.loss": cell.loss,
        "simulation.loss_until": rounds - REPAID if cell.loss else 0,
    }
    recorder = Recorder(nodes)
    play(load(SimulationConfig, None, over), watch=recorder)
    return recorder


def figures(recorder: Recorder) -> dict[str, float | int]:
    """Return what is printed of one run."""
    moments = recorder.moments
    distances = [m.distance for m in moments]
    rises = [a for a, b in pairwise(distances) if b > a and b > recorder.grid]
    drifts = [float((m.mean - moments[0].mean).abs().max()) / m.largest for m in moments]
    return {
        "start_distance": distances[0],
        "final_distance": distances[-1],
        "grid": recorder.grid,
        "rises": len(rises),
        "rises_below": max(rises, default=0.0),
        "monotone": int(not rises),
        "drift": max(drifts),
        "final_drift": drifts[-1],
        "rounds": len(moments) - 1,
    }


def cells(quick: bool) -> Iterator[Cell]:
    """Yield the cells, the sound network first."""
    topologies = ["ring"] if quick else ["ring", "complete", "exponential"]
    for loss, topology, density in product([0.0, 0.05], topologies, [0.1] if quick else [0.01, 0.1]):
        yield Cell(topology, density, loss)


def report(results: dict[Cell, dict[str, float | int]], path: Path | None) -> None:
    """Print the table and write the figures."""
    columns = ["start_distance", "final_distance", "grid", "rises", "rises_below", "drift", "final_drift"]
    rows = [[cell.key, *(found[c] for c in columns)] for cell, found in results.items()]
    show("pure consensus", ["cell", *(c.replace("_", " ") for c in columns)], rows)
    write(path, {f"{name}_{cell.key}": value for cell, found in results.items() for name, value in found.items()})


def main() -> None:
    """Play all cells."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=8)
    given = parser.parse_args()
    rounds, nodes = (20, 4) if given.quick else (given.rounds, given.nodes)
    results = {}
    for cell in cells(given.quick):
        results[cell] = figures(run(cell, rounds, nodes))
        ERR.print(cell.key, *(f"{name} {value:.3g}" for name, value in results[cell].items()), highlight=False)
    report(results, given.json)


if __name__ == "__main__":
    main()
