"""kill -9 of one of 8 real nodes at a random moment, ten times: who notices, what it costs, how it comes back.

Nodes run on loopback (ring, digits). Each kill is followed by a restart from the data directory. Prints for the
others the longest round against the median round and the adaptive deadline's ceiling, whether everybody finished
every round, and what the killed nodes kept: name, log, and the rounds they needed to be merged again.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from _common import ERR, arguments, show, write

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation.daemons import Child, prepare, spawn, stop

CEILING_S = 10.0
POLL_S = 0.05


async def play(nodes: int, rounds: int, kills: int, out: Path, seed: int) -> dict[str, float | int]:
    """Run the mesh through its kills and return the figures."""
    config = load(
        SimulationConfig,
        None,
        {
            "simulation.nodes": nodes,
            "topology.name": "ring",
            "schedule.rounds": rounds,
            "schedule.local_steps": 20,
            "round.ceiling_s": CEILING_S,
            "round.evaluate_every": 0,
            "task.arguments.partition": "dirichlet:0.5",
        },
    )
    draw = random.Random(seed)
    children = {c.node.name: await spawn(c) for c in prepare(config, out)}
    back: list[int] = []
    try:
        await _reached(children.values(), 5)
        for kill in range(kills):
            victim = draw.choice(sorted(children))
            child = children[victim]
            await asyncio.sleep(draw.random() * 2)
            child.process.kill()
            await child.process.wait()
            child.new_events()
            before = len(child.events)
            again = children[victim] = await spawn(child.config)
            again.events, again._read = child.events, child._read
            back.append(await _merged_again(again, before))
            ERR.print(f"kill {kill + 1} of {kills}: {victim} was merged with again {back[-1]} rounds after its last")
        await asyncio.gather(*(child.process.wait() for child in children.values()))
    finally:
        await stop(list(children.values()))
    return _figures(list(children.values()), rounds, back)


async def _reached(children: Any, round_: int) -> None:
    while not all(any(e["event"] == "round" and e["round"] >= round_ for e in c.events) for c in children):
        for child in children:
            child.new_events()
        await asyncio.sleep(POLL_S)


async def _merged_again(child: Child, before: int) -> int:
    """Return how many rounds lie between the last one before the kill and the first one it merged in after."""
    last: int = max(e["round"] for e in child.events[:before] if e["event"] == "round")
    while child.process.returncode is None:
        child.new_events()
        after: list[int] = [e["round"] for e in child.events[before:] if e["event"] == "round" and e["merged"]]
        if after:
            return after[0] - last
        await asyncio.sleep(POLL_S)
    raise RuntimeError(child.tail())


def _figures(children: list[Child], rounds: int, back: list[int]) -> dict[str, float | int]:
    gaps: list[float] = []
    lost = 0
    for child in children:
        child.new_events()
        times = [e["time"] for e in child.events if e["event"] == "round"]
        starts = sum(e["event"] == "start" for e in child.events)
        if starts == 1:
            gaps += [b - a for a, b in pairwise(times[1:])]
            lost += rounds - len(times)
    return {
        "nodes": len(children),
        "rounds": rounds,
        "kills": len(back),
        "finished_nodes": sum(child.result().get("finished_rounds") == rounds for child in children),
        "rounds_lost_by_never_killed": lost,
        "round_median_s": statistics.median(gaps) if gaps else float("nan"),
        "round_longest_s": max(gaps, default=float("nan")),
        "deadline_ceiling_s": CEILING_S,
        "rounds_until_merged_again_mean": statistics.fmean(back),
        "rounds_until_merged_again_worst": max(back),
        "epochs_opened": sum(child.result().get("epoch", 1) - 1 for child in children),
    }


def main() -> None:
    """Play and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    nodes, rounds, kills = (4, 40, 1) if given.quick else (8, given.rounds, given.kills)
    with tempfile.TemporaryDirectory() as out:
        figures = asyncio.run(play(nodes, rounds, kills, Path(out), given.seed))
    show("kill -9 and restart", ["figure", "value"], list(figures.items()))
    write(given.json, dict(figures))


if __name__ == "__main__":
    main()
