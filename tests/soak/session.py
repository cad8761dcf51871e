"""One soak from its start to its end: the nodes, what befalls them, and the figures."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from threading import Event
from typing import Any

from ..faults import checker
from ..faults.processes import Diary, agreed
from ..integration.daemons import eventually
from .health import MIB, Sample, drift, growth, lines_per_second, samples
from .hostile import Hostile
from .mishaps import AWAY_S, MISHAPS, PAUSE_S, Mishap
from .world import World

NETWORK, RUN = "peermerge", "soak"
SPARES = 2
STEP_S = 0.1
WINDOW = 5
"""So many samples make a beginning or an end: nothing befalls anybody then."""
BEGUN = 3
"""Nothing befalls anybody before all have ended so many rounds."""
SKIP, LEAST = 100, 600
"""Memory is followed after so many rounds, over at least so many."""
AGREE_S = 60.0
"""Far more than views may differ in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """How many nodes, for how long, and how rough."""

    nodes: int
    seed: int
    seconds: float = 0.0
    rounds: int = 0
    """Until everybody who is never restarted has ended so many; 0: for `seconds`."""
    every_s: float = 0.0
    """Between two mishaps; 0: nothing befalls anybody, and nobody is hostile."""
    sample_s: float = 5.0
    local_steps: int = 100

    @property
    def settings(self) -> dict[str, Any]:
        """What all nodes are configured with."""
        return {
            "network": NETWORK,
            "run": RUN,
            "seed": self.seed,
            "topology.name": "random-regular",
            "topology.parameters": {"degree": 4},
            "schedule.rounds": 0,
            "schedule.local_steps": self.local_steps,
            "round.evaluate_every": 5,
            "log.checkpoint_every": 10,
        }


def play(session: Session, folder: Path) -> dict[str, float]:
    """Run a session and return its figures."""
    rough = bool(session.every_s)
    world = World(folder, session.nodes, SPARES if rough else 0, session.settings)
    addresses = [node.address for node in world.nodes] if rough else []
    hostile = Hostile(addresses, NETWORK, RUN, session.seed)
    taken: list[Sample] = []
    calm_s = WINDOW * session.sample_s
    with ExitStack() as stack:
        stack.enter_context(closing(world))
        stack.enter_context(closing(hostile))
        read = [stack.enter_context(closing(Diary(node))) for node in (*world.nodes, *world.spares)]
        founders, veterans = read[: session.nodes], read[: len(world.veterans)]
        for node in world.nodes:
            world.start(node)
        eventually(lambda: agreed(founders), "all nodes hold one view")
        began = time.monotonic()
        _repeat(world, session.sample_s, lambda: taken.extend(samples(world)))
        _go_on(world, lambda: _passed(began, calm_s) and min(map(_rounds, founders)) >= BEGUN)
        if rough:
            befalling = _repeat(world, session.every_s, _mishaps(world, Random(session.seed)).__next__)
        _go_on(world, lambda: _over(session, began, calm_s, veterans))
        if rough:
            befalling.set()
            _go_on(world, _after(PAUSE_S + AWAY_S))
        for node in [node for node in world.spares if node in world.running]:
            world.stop(node)
        since = time.monotonic()
        _go_on(world, lambda: agreed(_of(read, world)) or _passed(since, AGREE_S))
        differ_s = time.monotonic() - since
        _go_on(world, _after(calm_s))
        accuracy = fmean(filter(None, map(_accuracy, founders)))
        world.stop_all()
        hostile.close()
        world.leave_word()
        violations = checker.check(checker.read([folder]))
        print(checker.table(violations) or "no invariant is violated", flush=True)
        return {
            "nodes": session.nodes,
            "seconds": time.monotonic() - began,
            "rounds": min(_rounds(diary) for diary in veterans),
            "mishaps": len(world.faults),
            "damaged_requests": hostile.sent,
            "damaged_requests_not_refused": hostile.unexpected,
            **_health(taken, read, world),
            "ended_by_themselves": len(world.lost),
            "invariants_violated": len(violations),
            "views_differ_s": differ_s,
            "exit_s": max(ended.seconds for ended in world.exits),
            "exits_not_0": sum(ended.code != 0 for ended in world.exits),
            "accuracy": accuracy,
        }


def _health(taken: Sequence[Sample], read: Sequence[Diary], world: World) -> dict[str, float]:
    """Return how the processes fared: memory by life, descriptors and threads of those who were never restarted."""
    lives: dict[tuple[str, int], list[Sample]] = {}
    for sample in taken:
        lives.setdefault((sample.node, sample.life), []).append(sample)
    ends = {diary.name: [entry["time"] for entry in diary.entries("round")] for diary in read}
    slopes = []
    for (name, _), life in lives.items():
        own = ends[name][bisect_left(ends[name], life[0].time) :]
        slopes.append(growth(life, own, skip=SKIP, least=LEAST))
    grown = [each for each in slopes if each is not None]
    whole = [lives[node.name, 1] for node in world.veterans]
    return {
        **({"rss_mib_per_1000_rounds": max(grown)} if grown else {}),
        "rss_mib": max(sample.rss for sample in taken) / MIB,
        "fds_grown": max(drift([sample.fds for sample in life], WINDOW) for life in whole),
        "threads_grown": max(drift([sample.threads for sample in life], WINDOW) for life in whole),
        "disk_mib": max(sample.disk for sample in taken) / MIB,
        "lines_per_peer_and_second": max(map(lines_per_second, lives.values())) / (len(world.nodes) - 1),
    }


def _mishaps(world: World, draw: Random) -> Iterator[None]:
    """Let one thing after another happen: every kind once, in an order that is drawn, then anew."""
    while True:
        kinds: list[Mishap] = list(MISHAPS.values())
        draw.shuffle(kinds)
        for mishap in kinds:
            mishap(world, draw)
            yield


def _repeat(world: World, seconds: float, action: Callable[[], object]) -> Event:
    """Do something every so many seconds until the event is set."""
    enough = Event()

    def again() -> None:
        if not enough.is_set():
            action()
            world.timetable.later(seconds, again)

    world.timetable.later(seconds, again)
    return enough


def _go_on(world: World, done: Callable[[], bool]) -> None:
    """Do what is due until something holds."""
    never = Event()
    while not done():
        world.timetable.step()
        world.look_after()
        never.wait(STEP_S)


def _after(seconds: float) -> Callable[[], bool]:
    since = time.monotonic()
    return lambda: _passed(since, seconds)


def _passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since > seconds


def _over(session: Session, began: float, calm_s: float, veterans: Sequence[Diary]) -> bool:
    if session.rounds:
        return all(_rounds(diary) >= session.rounds for diary in veterans)
    return _passed(began, session.seconds - calm_s - PAUSE_S - AWAY_S)


def _rounds(diary: Diary) -> int:
    """Return how many rounds a node has ended or jumped over."""
    ended = diary.entries("round")
    return int(ended[-1]["round"]) + 1 if ended else 0


def _accuracy(diary: Diary) -> float | None:
    """Return what a node measured last; nobody measures in every round."""
    measured = [entry["metrics"]["accuracy"] for entry in diary.entries("round") if entry["metrics"]]
    return float(measured[-1]) if measured else None


def _of(read: Sequence[Diary], world: World) -> list[Diary]:
    return [diary for diary in read if diary.node in world.running]
