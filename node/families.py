"""The families of graphs a network may merge along; `topology` names them and turns edges into weights.

A topology knows members as 0..n-1, their places among the sorted names, and answers with undirected
edges. The same answer everywhere: nothing but the arguments and the fields decides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random

from ..protocol.errors import ConfigError
from .graph import Edge, Edges, components, matching, random_regular, simple


class Topology(ABC):
    """A family of graphs: for every number of members and every round one graph."""

    __slots__ = ()

    @abstractmethod
    def edges(self, n: int, round_: int) -> Edges:
        """Return the edges (i, j), i < j, among n members in a round."""

    def phase(self, n: int, round_: int) -> int:
        """Return the smallest round with the same edges; 0 where the graph never changes."""
        return 0

    def pool(self, n: int) -> Edges:
        """Return every edge of any round: the replicas a node keeps."""
        return self.edges(n, 0)

    def over(self, members: Sequence[str]) -> Topology:
        """Return the topology with names replaced by places among the sorted `members`."""
        return self


@dataclass(frozen=True, slots=True)
class Ring(Topology):
    """Everybody and the next by name; the last and the first."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return the n edges of the cycle (one for two members)."""
        return simple((i, (i + 1) % n) for i in range(n))


@dataclass(frozen=True, slots=True)
class Complete(Topology):
    """Everybody with everybody."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return all pairs."""
        return frozenset(combinations(range(n), 2))


@dataclass(frozen=True, slots=True)
class Star(Topology):
    """Everybody with the first by name."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return the spokes."""
        return frozenset((0, i) for i in range(1, n))


@dataclass(frozen=True, slots=True)
class Torus(Topology):
    """A grid, as square as n's divisors allow, whose borders meet; a ring if n is prime."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return each member's edges to the right and down."""
        rows = max((r for r in range(1, math.isqrt(n) + 1) if n % r == 0), default=1)
        columns = n // rows
        right = ((i, i - i % columns + (i + 1) % columns) for i in range(n))
        return simple(right) | simple((i, (i + columns) % n) for i in range(n))


@dataclass(frozen=True, slots=True)
class Exponential(Topology):
    """Everybody with those 1, 2, 4, 8, ... places away, both ways round."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return about n log2 n edges."""
        return simple((i, (i + (1 << t)) % n) for t in range(_bits(n)) for i in range(n))


@dataclass(frozen=True, slots=True)
class OnePeerExponential(Topology):
    """One peer a round, i xor 2^(round mod ceil(log2 n)): the exact mean after log2 n rounds if n is a power of two.

    The symmetric form of the one-peer exponential graph (Ying et al. 2021). Who has no partner is idle.
    """

    def edges(self, n: int, round_: int) -> Edges:
        """Return the round's matching."""
        bit = 1 << self.phase(n, round_)
        return simple((i, i ^ bit) for i in range(n) if i ^ bit < n)

    def phase(self, n: int, round_: int) -> int:
        """Return the place of the bit that partners differ in."""
        return round_ % max(1, _bits(n))

    def pool(self, n: int) -> Edges:
        """Return the hypercube, cut off at n."""
        return frozenset[Edge]().union(*(self.edges(n, bit) for bit in range(_bits(n))))


@dataclass(frozen=True, slots=True)
class RandomRegular(Topology):
    """A fixed connected random graph in which everybody has `degree` neighbours (all others, if they are fewer)."""

    degree: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse degrees that cannot connect a network."""
        _check_degree(self.degree)

    def edges(self, n: int, round_: int) -> Edges:
        """Return the graph that seed and n give."""
        return random_regular(n, self.degree, self.seed)


@dataclass(frozen=True, slots=True)
class ErdosRenyi(Topology):
    """A fixed random graph: every pair with probability p; then separate parts are chained by their first members."""

    p: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        _check_probability(self.p)

    def edges(self, n: int, round_: int) -> Edges:
        """Return the graph that seed and n give; connected by as few extra edges as it takes."""
        draw = Random(f"erdos-renyi/{n}/{self.seed}")
        drawn = frozenset(pair for pair in combinations(range(n), 2) if draw.random() < self.p)
        return drawn | {(a[0], b[0]) for a, b in pairwise(components(drawn, n))}


@dataclass(frozen=True, slots=True)
class RandomNeighbour(Topology):
    """At most one random peer a round, out of a fixed pool of `degree` peers; each meeting happens with probability p.

    The pool bounds the replicas that a node must keep. With degree >= n - 1 and p = 0.2 this is the gossip of
    "A Single Merging Suffices" (arXiv 2507.06542).
    """

    degree: int = 4
    seed: int = 0
    p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse degrees that cannot connect a network, and what is no probability."""
        _check_degree(self.degree)
        _check_probability(self.p)

    def edges(self, n: int, round_: int) -> Edges:
        """Return a random maximal matching within the pool, thinned by p."""
        draw = Random(f"random-neighbour/{n}/{self.seed}/{round_}")
        return frozenset(edge for edge in matching(self.pool(n), draw) if draw.random() < self.p)

    def phase(self, n: int, round_: int) -> int:
        """Return the round itself: each draws anew."""
        return round_

    def pool(self, n: int) -> Edges:
        """Return the fixed graph that matchings are drawn from."""
        return random_regular(n, self.degree, self.seed)


@dataclass(frozen=True, slots=True)
class ExplicitEdges(Topology):
    """The pairs that the user lists, by name or by place among the sorted names; pairs with absent members rest."""

    pairs: tuple[tuple[str, str], ...] | tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse loops, negative places, and names mixed with places."""
        if not self.pairs:
            raise ConfigError("pairs is empty: list at least one, such as ['a', 'b']")
        for pair in self.pairs:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ConfigError(f"pairs: {list(pair)} does not join two members")
            if any(isinstance(end, int) and end < 0 for end in pair):
                raise ConfigError(f"pairs: {list(pair)}: places count from 0")
        if len({type(end) for pair in self.pairs for end in pair}) != 1:
            raise ConfigError("pairs mix names with places: use one of them")

    def edges(self, n: int, round_: int) -> Edges:
        """Return the pairs among the first n; raise ConfigError where names still stand for places (see `over`)."""
        places = [(i, j) for i, j in self.pairs if isinstance(i, int) and isinstance(j, int)]
        if len(places) < len(self.pairs):
            raise ConfigError("pairs are names: they have places only among given members")
        return simple((i, j) for i, j in places if i < n and j < n)

    def over(self, members: Sequence[str]) -> Topology:
        """Return the pairs of present members by place."""
        place = {name: i for i, name in enumerate(members)}
        named = [(i, j) for i, j in self.pairs if isinstance(i, str) and isinstance(j, str)]
        if not named:
            return self
        present = tuple((place[i], place[j]) for i, j in named if i in place and j in place)
        return ExplicitEdges(present) if present else _Nobody()


@dataclass(frozen=True, slots=True)
class _Nobody(Topology):
    """No edges: everybody trains alone."""

    def edges(self, n: int, round_: int) -> Edges:
        """Return none."""
        return frozenset()


def _bits(n: int) -> int:
    """Return ceil(log2 n), and 0 for nobody."""
    return (n - 1).bit_length() if n > 1 else 0


def _check_degree(degree: int) -> None:
    if degree < 2:
        raise ConfigError(f"degree = {degree}: give 2 or more, or the network falls apart")


def _check_probability(p: float) -> None:
    if not 0 < p <= 1:
        raise ConfigError(f"p = {p}: give a probability above 0 and up to 1")
