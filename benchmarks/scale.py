"""Many nodes in one process: 64 nodes of 0.2 M parameters on the memory network, on the exponential graph.

Each simulation runs in a Python of its own, twice with one seed: prints its wall time, the seconds of a node's round
beyond training, the peak of its resident memory (limit 2 GB at 64 nodes), and whether both wrote the same bytes of
events.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import arguments, show, write

LIMIT_GB = 2


def run(nodes: int, rounds: int) -> dict[str, float | str]:
    """Play one simulation; return its cost and the digest of its metrics.jsonl."""
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


def main() -> None:
    """Run twice, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    nodes, rounds = (8, 3) if given.quick else (given.nodes, given.rounds)
    # A fresh interpreter for each: its peak is its own, and nothing is left over from the other.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        first, second = pool.map(run, [nodes] * 2, [rounds] * 2)
    same = first.pop("digest") == second.pop("digest")
    figures = {"nodes": nodes, "rounds": rounds, "byte_equal": int(same), **first}
    limits = {"peak_gb": LIMIT_GB, "byte_equal": 1}
    show("nodes in one process", ["figure", "value", "limit"], [[k, v, limits.get(k, "")] for k, v in figures.items()])
    write(given.json, figures)


if __name__ == "__main__":
    main()
