"""Topologies: who merges with whom in a round, and with which weight. Pure functions, the same for everybody.

A topology knows members as 0..n-1, their places among the sorted names, and answers with undirected
edges; `neighbours` turns these into names and mixing weights. Weights are symmetric and doubly
stochastic, so merging by the weighted mean keeps the network's mean.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ..protocol.errors import ConfigError
from .families import (
    Complete,
    ErdosRenyi,
    ExplicitEdges,
    Exponential,
    OnePeerExponential,
    RandomNeighbour,
    RandomRegular,
    Ring,
    Star,
    Topology,
    Torus,
)
from .graph import Edge, Edges, degrees
from .registry import make, nearest

__all__ = [
    "TOPOLOGIES",
    "WEIGHTS",
    "Complete",
    "Edge",
    "Edges",
    "ErdosRenyi",
    "ExplicitEdges",
    "Exponential",
    "OnePeerExponential",
    "RandomNeighbour",
    "RandomRegular",
    "Ring",
    "Star",
    "Topology",
    "Torus",
    "graph",
    "is_dense",
    "make_topology",
    "metropolis",
    "neighbours",
    "partners",
    "uniform",
]

TOPOLOGIES: dict[str, type[Topology]] = {
    "ring": Ring,
    "complete": Complete,
    "star": Star,
    "torus": Torus,
    "exponential": Exponential,
    "one-peer-exponential": OnePeerExponential,
    "random-regular": RandomRegular,
    "erdos-renyi": ErdosRenyi,
    "random-neighbour": RandomNeighbour,
    "edges": ExplicitEdges,
}


def make_topology(name: str, parameters: Mapping[str, object]) -> Topology:
    """Return the topology of a configuration; raise ConfigError that names the nearest known name or parameter."""
    return make("topology", TOPOLOGIES, name, parameters)


def metropolis(edges: Edges, n: int) -> dict[Edge, float]:
    """Return W_ij = 1 / (1 + max(degree_i, degree_j)); W_ii is the rest. Doubly stochastic on any graph."""
    degree = degrees(edges, n)
    return {(i, j): 1 / (1 + max(degree[i], degree[j])) for i, j in edges}


def uniform(edges: Edges, n: int) -> dict[Edge, float]:
    """Return W_ij = 1 / (1 + the graph's largest degree) on every edge; W_ii is the rest. Doubly stochastic."""
    share = 1 / (1 + max(degrees(edges, n), default=0))
    return dict.fromkeys(edges, share)


WEIGHTS: dict[str, Callable[[Edges, int], dict[Edge, float]]] = {"metropolis": metropolis, "uniform": uniform}


def is_dense(edges: Edges, n: int) -> bool:
    """Say whether members have on average at least half of the others as neighbours: merges must then step less."""
    return n > 2 and 4 * len(edges) >= n * (n - 1)


def graph(topology: Topology, members: Sequence[str], round_: int) -> Edges:
    """Return the round's edges between places among the sorted `members`; rounds with equal edges share one answer."""
    placed, n = topology.over(members), len(members)
    return _edges(placed, n, placed.phase(n, round_))


def neighbours(
    topology: Topology, members: Sequence[str], me: str, round_: int, weights: str = "metropolis"
) -> dict[str, float]:
    """Return my neighbours of the round by ascending name, with mixing weights; my own weight is 1 less their sum.

    `members` are sorted names. Everybody's rows are worked out once a round, so a thousand nodes in one process
    may ask. Raises ConfigError for unknown weights, ValueError if I am not a member.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"unknown weights {weights!r}: {nearest(weights, WEIGHTS)}")
    placed, n, place = topology.over(members), len(members), _place(members, me)
    row = _rows(placed, n, placed.phase(n, round_), weights)[place]
    return {members[j]: weight for j, weight in row.items()}


def partners(topology: Topology, members: Sequence[str], me: str) -> tuple[str, ...]:
    """Return everybody I may meet in some round, by ascending name: whose replicas I keep."""
    placed, place = topology.over(members), _place(members, me)
    return tuple(members[j] for j in _pool_rows(placed, len(members))[place])


@lru_cache(maxsize=128)
def _edges(topology: Topology, n: int, phase: int) -> Edges:
    return topology.edges(n, phase)


@lru_cache(maxsize=128)
def _rows(topology: Topology, n: int, phase: int, weights: str) -> tuple[dict[int, float], ...]:
    return _by_member(WEIGHTS[weights](_edges(topology, n, phase), n), n)


@lru_cache(maxsize=16)
def _pool_rows(topology: Topology, n: int) -> tuple[dict[int, float], ...]:
    return _by_member(dict.fromkeys(topology.pool(n), 0.0), n)


def _by_member(weighted: Mapping[Edge, float], n: int) -> tuple[dict[int, float], ...]:
    """Return every member's neighbours, ascending, with the weights of the edges to them."""
    rows: tuple[dict[int, float], ...] = tuple({} for _ in range(n))
    for (i, j), weight in sorted(weighted.items()):
        rows[i][j] = rows[j][i] = weight
    return rows


def _place(members: Sequence[str], me: str) -> int:
    place = bisect_left(members, me)
    if place == len(members) or members[place] != me:
        raise ValueError(f"{me!r} is not among the sorted members")
    return place
