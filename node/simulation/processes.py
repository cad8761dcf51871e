"""Play N nodes as N real daemons that talk gRPC over the loopback interface."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ...protocol.errors import PeermergeError
from ..config import SimulationConfig
from ..export import export
from ..params import load_tensors
from .daemons import Child, prepare, spawn, stop
from .mean import Judge, Weights
from .nodes import check_ends
from .outcome import NodeFailed, NodeOutcome, Observer, Outcome

POLL_S = 0.2
WEIGHTS = "weights.safetensors"


def play_processes(config: SimulationConfig, out: Path, judge: Judge, observer: Observer) -> Outcome:
    """Run a simulation on real daemons to its end, and leave none behind, whatever happens.

    Their folders stay in `out`/nodes. A node that dies while others train is theirs to cope with, and is reported
    in its outcome; one that does not come to its first round ends the simulation. Raises NodeFailed.
    """
    check_ends(config)
    children = asyncio.run(_run(config, out, observer))
    events = sorted((e for child in children for e in child.events), key=lambda e: float(e.get("time", 0)))
    return Outcome([_outcome(child, judge) for child in children], events)


async def _run(config: SimulationConfig, out: Path, observer: Observer) -> list[Child]:
    children: list[Child] = []
    try:
        for node in prepare(config, out):
            children.append(await spawn(node))
        await _follow(children, config, observer)
    finally:
        await stop(children)
    return children


async def _follow(children: list[Child], config: SimulationConfig, observer: Observer) -> None:
    """Report what the nodes do until all have ended. Raises NodeFailed if one never starts."""
    started = False
    running = {asyncio.create_task(child.process.wait(), name=child.name) for child in children}
    while True:
        ended = not running  # asked before the last events are read: nothing is missed
        fresh = [event for child in children for event in child.new_events() if event["event"] == "round"]
        if fresh and not started:
            started = True
            observer.phase("merging", len(children) * config.schedule.rounds)
        if not started:
            observer.advance("starting nodes", sum(child.serves for child in children), len(children))
            _check_alive(children)
        for event in fresh:
            observer.round(event["node"], event["round"], event)
        if ended:
            return
        _, running = await asyncio.wait(running, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)


def _check_alive(children: list[Child]) -> None:
    dead = [child for child in children if child.process.returncode is not None]
    if dead:
        raise NodeFailed("\n".join(f"{child.name} did not start: {child.tail()}" for child in dead))


def _outcome(child: Child, judge: Judge) -> NodeOutcome:
    result = child.result()
    finished = int(result.get("finished_rounds", 0)) or sum(e["event"] == "round" for e in child.events)
    last = max((int(e["bytes_out"]) for e in child.events if e["event"] == "round"), default=0)
    rounds = int(result.get("exchange_rounds", 0))
    done = finished >= child.config.schedule.rounds
    return NodeOutcome(
        name=child.name,
        finished_rounds=finished,
        metrics=result.get("metrics", {}),
        bytes_out=int(result.get("bytes_out", last)),
        links=result.get("links", {}),
        seconds_per_round=result["exchange_s"] / rounds if rounds else None,
        weights=_weights(child, judge, result),
        failure="" if done else child.tail(),
    )


def _weights(child: Child, judge: Judge, result: dict[str, Any]) -> Weights:
    """Return the weights that a node left; none if it left no result."""
    if not result:
        return {}
    file = child.folder / WEIGHTS
    try:
        export(child.folder, file, mean=False)
        full = load_tensors(file)
    except PeermergeError:
        return {}
    return {name: full[name] for name in judge.names if name in full}
