"""How many nodes fit into one process, and does a node cost the same among 8 as among 1,000?

Part one: N nodes on the memory network, N = 8, 64, 256, 1,000. Real digits, a network of 2.2 k parameters, 5 steps a
round, the codec on, every member watched by gossip; a round takes 2 virtual seconds. On the random graph of degree 4
the cost of a node's round (processor time of all rounds, training included, without what it takes to set them up) may
be at most 1.5 times what it is among 8, and the bytes that membership sends a second may grow with log N at most. On
the exponential graph, whose degree grows with log N, the cost is given per edge. Small N play several times, so that
what is measured takes seconds.

Part two: gossip alone among N members: the virtual seconds until all know of a newcomer, and of a death.

Part three: 64 nodes of 0.2 M parameters on the exponential graph, twice with one seed: the peak of resident memory
(limit 2 GB) and whether both wrote the same bytes of events.

Every N has a Python of its own: its peak (on the random graph) is its own, and nothing is left over from another.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import log2
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from _common import ERR, arguments, show, write

T = TypeVar("T")
LIMIT_GB = 2
LIMIT_RATIO = 1.5
SIZES = (8, 64, 256, 1000)
QUICK_SIZES = (8, 64, 128)
REPEATED = 64
"""Fewer nodes than this play so often that as many have played."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of nodes on one graph."""

    nodes: int
    topology: str
    rounds: int

    @property
    def repeats(self) -> int:
        """How often it plays."""
        return max(1, REPEATED // self.nodes)

    @property
    def edges(self) -> int:
        """How many pairs merge in a round."""
        from peermerge.node.simulation.nodes import pool_edges

        return len(pool_edges(settings(self)))


def settings(cell: Cell) -> Any:
    """Return the simulation of a cell."""
    from peermerge.node.config import SimulationConfig, load

    over: dict[str, Any] = {
        "task.name": "_scale_task:shared_digits",
        "topology.name": cell.topology,
        "topology.parameters": {"degree": 4} if cell.topology == "random-regular" else {},
        "schedule.rounds": cell.rounds,
        "schedule.local_steps": 5,
        "round.evaluate_every": 0,
        "log.checkpoint_every": 0,
        "simulation.nodes": cell.nodes,
        "simulation.gossip": True,
        "simulation.step_s": 0.4,
    }
    return load(SimulationConfig, None, over)


def measure(cell: Cell) -> dict[str, float]:
    """Play a cell; return what a node's round costs and what membership sends."""
    from peermerge.node.participant import Participant
    from peermerge.node.simulation.memory import play

    play(settings(Cell(2, cell.topology, 1)))  # what is loaded at the first step is loaded now
    cost_s = sent = virtual_s = 0.0
    for _ in range(cell.repeats):
        marks: list[tuple[float, float]] = []

        def mark(node: Participant, marks: list[tuple[float, float]] = marks) -> None:
            marks.append((time.process_time(), node.clock.now()))

        nodes = play(settings(cell), watch=mark).nodes
        if any(node.round != cell.rounds for node in nodes):
            raise RuntimeError("a node did not finish its rounds")
        cost_s += marks[-1][0] - marks[0][0]
        virtual_s += marks[-1][1] - marks[0][1]
        sent += sum(node.gossip.bytes_out for node in nodes) / cell.nodes
    return {
        "cost_ms": 1000 * cost_s / (cell.repeats * cell.nodes * cell.rounds),
        "edge_ms": 1000 * cost_s / (cell.repeats * cell.edges * cell.rounds),
        "membership_bytes_s": sent / virtual_s,
        "peak_gb": peak_gb(),
    }


def spread(nodes: int) -> dict[str, float]:
    """Return how long a join and a death take to be known to so many."""
    from _scale_members import spread as spread_among

    return spread_among(nodes)


def run(nodes: int, rounds: int) -> dict[str, float | str]:
    """Play one simulation of larger models; return its cost and the digest of its metrics.jsonl."""
    from peermerge.node.config import SimulationConfig, load
    from peermerge.node.simulation.memory import play
    from peermerge.node.simulation.run import write_metrics

    over: dict[str, Any] = {
        "task.name": "digits-wide",
        "topology.name": "exponential",
        "schedule.rounds": rounds,
        "round.evaluate_every": 0,
        "log.checkpoint_every": 0,
        "simulation.nodes": nodes,
    }
    started = time.perf_counter()
    played = play(load(SimulationConfig, None, over))
    seconds = time.perf_counter() - started
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        write_metrics(path, played.events)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "seconds": seconds,
        "seconds_beyond_training": played.seconds / (nodes * rounds),
        "peak_gb": peak_gb(),
        "digest": digest,
    }


def peak_gb() -> float:
    """Return the largest resident memory of this process so far; macOS counts in bytes, others in kilobytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def alone(job: Callable[..., T], *arguments: object) -> T:
    """Do a job in a Python of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(job, *arguments).result()


def at(nodes: int, rounds: int) -> dict[str, float]:
    """Measure both graphs, and gossip alone, among so many nodes."""
    found = measure(Cell(nodes, "random-regular", rounds))
    edge_ms = measure(Cell(nodes, "exponential", max(1, rounds // 2)))["edge_ms"]
    return {**found, "edge_ms": edge_ms, **spread(nodes)}


def flat(sizes: Sequence[int], rounds: int) -> dict[str, float | int | str]:
    """Measure parts one and two, print their tables and return flat figures."""
    found = {}
    for nodes in sizes:
        ERR.print(f"{nodes} nodes, {rounds} rounds")
        found[nodes] = alone(at, nodes, rounds)
    first = found[sizes[0]]
    figures: dict[str, float | int | str] = {}
    rows = []
    for nodes, each in found.items():
        ratio = each["cost_ms"] / first["cost_ms"]
        grown = each["membership_bytes_s"] / first["membership_bytes_s"]
        most = log2(nodes) / log2(sizes[0])
        figures |= {
            f"cost_per_node_round_{nodes}": each["cost_ms"] / 1000,
            f"cost_ratio_{nodes}": ratio,
            f"membership_bytes_per_node_s_{nodes}": each["membership_bytes_s"],
            f"peak_gb_{nodes}": each["peak_gb"],
            f"cost_per_edge_round_{nodes}": each["edge_ms"] / 1000,
            f"join_known_s_{nodes}": each["join_known_s"],
            f"death_known_s_{nodes}": each["death_known_s"],
        }
        rows.append(
            [
                nodes,
                each["cost_ms"],
                f"{ratio:.2f} (<= {LIMIT_RATIO})",
                each["edge_ms"],
                each["peak_gb"],
                each["membership_bytes_s"],
                f"{grown:.2f} (<= {most:.2f})",
                each["join_known_s"],
                each["death_known_s"],
            ]
        )
    figures["flat"] = int(all(float(figures[f"cost_ratio_{nodes}"]) <= LIMIT_RATIO for nodes in sizes))
    columns = ["nodes", "ms a node and round", "times that of 8", "ms an edge (exponential)", "peak GB"]
    columns += ["membership B/s a node", "times that of 8", "join known s", "death known s"]
    show("one node among many", columns, rows)
    return figures


def main() -> None:
    """Measure all, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--nodes", type=int, default=64, help="of part three")
    parser.add_argument("--rounds", type=int, default=10, help="of part three")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of nodes of parts one and two")
    given = parser.parse_args()
    nodes, rounds = (8, 2) if given.quick else (given.nodes, given.rounds)
    figures = flat(given.sizes or (QUICK_SIZES if given.quick else SIZES), 2 if given.quick else 5)
    ERR.print(f"{nodes} nodes, larger models, {rounds} rounds, twice")
    first, second = (alone(run, nodes, rounds) for _ in range(2))
    same = first.pop("digest") == second.pop("digest")
    larger = {"nodes": nodes, "rounds": rounds, "byte_equal": int(same), **first}
    limits = {"peak_gb": LIMIT_GB, "byte_equal": 1}
    show("larger models", ["figure", "value", "limit"], [[k, v, limits.get(k, "")] for k, v in larger.items()])
    write(given.json, {**larger, **figures})


if __name__ == "__main__":
    main()
