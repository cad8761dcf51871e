"""Fault schedules drawn from a seed: what is done to a mesh of eight nodes, when, and how the mesh is set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

NODES = tuple(f"n{i}" for i in range(8))
TOPOLOGIES = (*("ring", "one-peer-exponential", "random-neighbour", "random-regular") * 4, "exponential", "complete")
"""Dense graphs are drawn seldom: they cost some times more and show no other faults."""
FIRST_S, LAST_S = 3.0, 13.0
"""Faults begin between these times."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: what, from when to when, to whom, and how bad."""

    kind: str
    start: float
    end: float
    nodes: tuple[str, ...]
    others: tuple[str, ...] = ()
    """The other side, where there is one."""
    amount: float = 0.0

    def __str__(self) -> str:
        """Return one line."""
        sides = "+".join(self.nodes) + (f" | {'+'.join(self.others)}" if self.others else "")
        return f"{self.start:6.2f} to {self.end:6.2f} s  {self.kind:<10} {sides}  {self.amount:g}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that a seed decides."""

    seed: int
    settings: Mapping[str, Any]
    """Dotted keys of all nodes' configuration."""
    step_s: Mapping[str, float]
    """What a round's training costs on each node."""
    faults: tuple[Planned, ...]
    rounds: int = 20
    """Every node finishes at least so many."""

    def __str__(self) -> str:
        """Return the settings and a line a fault."""
        chosen = ", ".join(f"{key} = {value!r}" for key, value in self.settings.items())
        return "\n".join([f"seed {self.seed}: {chosen}", *(f"  {fault}" for fault in self.faults)])

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes; the first two are the seeds that the others greet."""
        return tuple(self.step_s)

    @property
    def late(self) -> frozenset[str]:
        """Who is not there from the start."""
        return frozenset(name for fault in self.faults if fault.kind == "join" for name in fault.nodes)


Draw = Callable[[Random, str, float], Planned]
"""Draws a fault that begins at some time; where it is one node's, this one's."""


def _lives(kind: str, shortest_s: float, longest_s: float) -> Draw:
    """A fault of one node that lasts so long."""

    def draw(rng: Random, node: str, start: float) -> Planned:
        # amount: for a power cut the writes that still go well; odd halves cut before the last is committed.
        return Planned(kind, start, start + rng.uniform(shortest_s, longest_s), (node,), amount=rng.randrange(8) / 2)

    return draw


def _pause(rng: Random, node: str, start: float) -> Planned:
    """A pause of a second to half a minute, and more often a short one."""
    return Planned("pause", start, start + 30 ** rng.random(), (node,))


def _groups(kind: str) -> Draw:
    """A fault between two parts of the mesh."""

    def draw(rng: Random, node: str, start: float) -> Planned:
        shuffled = rng.sample(NODES, len(NODES))
        size = rng.choice([1, 2, 4])
        return Planned(kind, start, start + rng.uniform(2, 12), tuple(shuffled[:size]), tuple(shuffled[size:]))

    return draw


def _everywhere(kind: str, least: float, most: float) -> Draw:
    """A fault of all links; amount: how bad."""

    def draw(rng: Random, node: str, start: float) -> Planned:
        return Planned(kind, start, start + rng.uniform(2, 10), NODES, amount=rng.uniform(least, most))

    return draw


KINDS: dict[str, Draw] = {
    "kill": _lives("kill", 0.1, 12),
    "power": _lives("power", 5, 8),
    "pause": _pause,
    "leave": _lives("leave", 1, 10),
    "join": lambda rng, node, start: Planned("join", start, start, (node,)),
    "disk": _lives("disk", 2, 10),
    "partition": _groups("partition"),
    "one-way": _groups("one-way"),
    "loss": _everywhere("loss", 0.05, 0.4),
    "duplicates": _everywhere("duplicates", 0.05, 0.4),
    "resets": _everywhere("resets", 0.02, 0.3),
    "slow": _everywhere("slow", 0.05, 0.5),
}
OF_LIVES = frozenset({"kill", "power", "leave", "join"})
"""At most one of these happens to each node."""


def draw(seed: int) -> Schedule:
    """Return a seed's schedule: at least three kinds of fault."""
    rng = Random(f"schedule {seed}")
    kinds = rng.sample(list(KINDS), rng.randint(3, 5))
    kinds += [kind for kind in kinds if kind != "join" and rng.random() < 0.25]
    mortal = iter(rng.sample(NODES[1:], len(NODES) - 1))  # the first is a seed that newcomers greet
    faults = []
    for kind in kinds:
        node = next(mortal) if kind in OF_LIVES else rng.choice(NODES)
        faults.append(KINDS[kind](rng, node, round(rng.uniform(FIRST_S, LAST_S), 3)))
    settings = {
        "round.mode": rng.choice(["sync", "sync", "async"]),
        "round.quorum": rng.choice([1.0, 1.0, 0.5]),
        "round.ceiling_s": rng.choice([3.0, 6.0]),
        "topology.name": rng.choice(TOPOLOGIES),
        "log.retention": rng.choice([1, 4, 16, 64]),
        "log.checkpoint_every": rng.choice([0, 1, 5]),
        "publish.density": rng.choice([0.05, 0.3]),
    }
    step_s = {name: round(rng.uniform(1.4, 2.0), 3) for name in NODES}
    return Schedule(seed, settings, step_s, tuple(sorted(faults, key=lambda fault: fault.start)))
