"""Undirected graphs on the members 0..n-1, as sets of edges (i, j) with i < j. Pure functions.

Everybody must draw the same graph from the same seed, whatever their Python: only `Random.random` is
used, seeded by a string, because these two alone are promised to stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import Random
from typing import TypeVar

T = TypeVar("T")

Edge = tuple[int, int]
Edges = frozenset[Edge]

SWAPS_PER_EDGE = 10
"""After this many tries an edge the ring lattice can no longer be told from a random graph."""


def simple(pairs: Iterable[Edge]) -> Edges:
    """Return the pairs as edges, without direction, repetition and loops."""
    return frozenset((min(i, j), max(i, j)) for i, j in pairs if i != j)


def degrees(edges: Iterable[Edge], n: int) -> list[int]:
    """Return the number of neighbours of every member."""
    count = [0] * n
    for i, j in edges:
        count[i] += 1
        count[j] += 1
    return count


def components(edges: Iterable[Edge], n: int) -> list[list[int]]:
    """Return the connected parts, each ascending, ordered by their smallest member."""
    around: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges:
        around[i].append(j)
        around[j].append(i)
    seen: set[int] = set()
    parts = []
    for start in range(n):
        if start not in seen:
            part = _reach(start, around)
            seen |= part
            parts.append(sorted(part))
    return parts


def _reach(start: int, around: Sequence[Sequence[int]]) -> set[int]:
    reached, frontier = {start}, [start]
    while frontier:
        for j in around[frontier.pop()]:
            if j not in reached:
                reached.add(j)
                frontier.append(j)
    return reached


def matching(edges: Iterable[Edge], draw: Random) -> list[Edge]:
    """Return a random maximal matching: edges without a common end, to which none can be added."""
    matched: set[int] = set()
    chosen = []
    for i, j in _shuffled(sorted(edges), draw):
        if i not in matched and j not in matched:
            matched |= {i, j}
            chosen.append((i, j))
    return chosen


@lru_cache(maxsize=64)
def random_regular(n: int, degree: int, seed: int) -> Edges:
    """Return a connected random graph in which everybody has `degree` >= 2 neighbours.

    A ring lattice on shuffled members is mixed by swapping the ends of random pairs of edges, which
    keeps every degree. With few members the graph is complete. If n and degree are odd no such graph
    exists, and one member has a neighbour fewer.
    """
    if degree >= n - 1:
        return frozenset((i, j) for i in range(n) for j in range(i + 1, n))
    draw = Random(f"random-regular/{n}/{degree}/{seed}")
    edges = sorted(_lattice(_shuffled(range(n), draw), degree))
    present = set(edges)
    _swap(edges, present, draw)
    while len(components(edges, n)) > 1:
        _swap(edges, present, draw)
    return frozenset(present)


def _lattice(order: Sequence[int], degree: int) -> Edges:
    """Join everybody to the next degree // 2 in the ring and, if the degree is odd, to the member opposite."""
    n = len(order)
    pairs = [(order[i], order[(i + step) % n]) for i in range(n) for step in range(1, degree // 2 + 1)]
    opposite = [(order[i], order[i + n // 2]) for i in range(n // 2)] if degree % 2 else []
    return simple(pairs + opposite)


def _swap(edges: list[Edge], present: set[Edge], draw: Random) -> None:
    """Replace random pairs of edges ab, cd by ac, bd or ad, bc in place, wherever no edge doubles."""
    for _ in range(SWAPS_PER_EDGE * len(edges)):
        x, y = int(draw.random() * len(edges)), int(draw.random() * len(edges))
        (a, b), (c, d) = edges[x], edges[y]
        if draw.random() < 0.5:
            c, d = d, c
        new = simple([(a, c), (b, d)])
        if len(new) == 2 and not new & present:
            present -= {edges[x], edges[y]}
            present |= new
            edges[x], edges[y] = sorted(new)


def _shuffled(items: Iterable[T], draw: Random) -> list[T]:
    return sorted(items, key=lambda _: draw.random())
