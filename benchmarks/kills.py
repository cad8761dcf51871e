"""kill -9 of one of 8 real nodes at a random moment, ten times: who notices, what it costs, how it comes back.

Nodes run on loopback (ring, digits). Each kill is followed by a restart from the data directory. Prints for the
others the longest round against the median round and the adaptive deadline's ceiling, whether they lost any round, and
how soon the killed nodes were merged with again.
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


async def play(nodes: int, kills: int, out: Path, seed: int) -> dict[str, float | int]:
    """Run the mesh through its kills and return the figures."""
    config = load(
        SimulationConfig,
        None,
        {
            "simulation.nodes": nodes,
            "topology.name": "ring",
            "schedule.rounds": 0,
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
        await _reached(
            children.values(), 10 + max(e["round"] for c in children.values() for e in c.events if "round" in e)
        )
    finally:
        await stop(list(children.values()))
    return _figures(list(children.values()), back)


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


def _figures(children: list[Child], back: list[int]) -> dict[str, float | int]:
    gaps: list[float] = []
    lost = 0
    for child in children:
        child.new_events()
        rounds = [e for e in child.events if e["event"] == "round"]
        if sum(e["event"] == "start" for e in child.events) == 1:
            # The first rounds hold what torch imports at its first step.
            gaps += [b["time"] - a["time"] for a, b in pairwise(rounds[2:])]
            lost += rounds[-1]["round"] + 1 - len(rounds)
    return {
        "nodes": len(children),
        "kills": len(back),
        "never_killed": sum(sum(e["event"] == "start" for e in child.events) == 1 for child in children),
        "rounds_played": min(e["round"] for c in children for e in c.events[-3:] if e["event"] == "round") + 1,
        "rounds_lost_by_never_killed": lost,
        "round_median_s": statistics.median(gaps) if gaps else float("nan"),
        "round_longest_s": max(gaps, default=float("nan")),
        "deadline_ceiling_s": CEILING_S,
        "rounds_until_merged_again_mean": statistics.fmean(back),
        "rounds_until_merged_again_worst": max(back),
        "clean_ends": sum(child.process.returncode == 0 for child in children),
        "epochs_opened": sum(child.result().get("epoch", 1) - 1 for child in children),
    }


def main() -> None:
    """Play and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    nodes, kills = (4, 1) if given.quick else (8, given.kills)
    with tempfile.TemporaryDirectory() as out:
        figures = asyncio.run(play(nodes, kills, Path(out), given.seed))
    show("kill -9 and restart", ["figure", "value"], list(figures.items()))
    write(given.json, dict(figures))


if __name__ == "__main__":
    main()
