from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.graph import components, degrees
from peermerge.node.topology import (
    TOPOLOGIES,
    Complete,
    Edges,
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
    graph,
    is_dense,
    make_topology,
    metropolis,
    neighbours,
    partners,
    uniform,
)
from peermerge.protocol.errors import ConfigError

CONNECTED = [
    Ring(),
    Complete(),
    Star(),
    Torus(),
    Exponential(),
    RandomRegular(2, 1),
    RandomRegular(3, 2),
    ErdosRenyi(0.05, 3),
]
MATCHINGS = [OnePeerExponential(), RandomNeighbour(3, 5), RandomNeighbour(1000, 6, 0.5)]
PAIRS = ExplicitEdges(((0, 1), (3, 1), (1, 3), (2, 40)))
EVERY = [*CONNECTED, *MATCHINGS, PAIRS]

members_count = st.integers(1, 33)
rounds = st.integers(0, 100)
modest = settings(max_examples=40, deadline=None)


def names(n: int) -> list[str]:
    return [f"node-{i:04}" for i in range(n)]


def mixing(topology: Topology, n: int, round_: int, weights: str = "metropolis") -> npt.NDArray[np.float64]:
    matrix = np.zeros((n, n))
    for i, me in enumerate(names(n)):
        row = neighbours(topology, names(n), me, round_, weights)
        for peer, weight in row.items():
            matrix[i, names(n).index(peer)] = weight
        matrix[i, i] = 1 - sum(row.values())
    return matrix


def test_every_registered_topology_is_tested_here() -> None:
    assert {type(topology) for topology in EVERY} == set(TOPOLOGIES.values())


@modest
@given(st.sampled_from(EVERY), members_count, rounds)
def test_edges_are_ordered_pairs_of_members_and_lie_in_the_pool(topology: Topology, n: int, round_: int) -> None:
    edges = topology.edges(n, round_)
    assert all(0 <= i < j < n for i, j in edges)
    assert edges <= topology.pool(n)


@modest
@given(st.sampled_from(EVERY), members_count, rounds)
def test_a_round_has_the_edges_of_its_phase(topology: Topology, n: int, round_: int) -> None:
    phase = topology.phase(n, round_)
    assert topology.edges(n, phase) == topology.edges(n, round_)
    assert graph(topology, names(n), round_) == topology.edges(n, round_)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EVERY), st.integers(1, 17), rounds, st.sampled_from(["metropolis", "uniform"]))
def test_mixing_is_symmetric_and_doubly_stochastic(topology: Topology, n: int, round_: int, weights: str) -> None:
    matrix = mixing(topology, n, round_, weights)
    assert (matrix == matrix.T).all()
    assert (matrix >= -1e-12).all()
    np.testing.assert_allclose(matrix.sum(0), 1)


@modest
@given(st.sampled_from(CONNECTED), members_count)
def test_static_topologies_are_connected_in_every_round(topology: Topology, n: int) -> None:
    assert len(components(topology.edges(n, 7), n)) == 1


@modest
@given(st.sampled_from(MATCHINGS), members_count)
def test_matchings_are_connected_over_all_rounds(topology: Topology, n: int) -> None:
    assert len(components(topology.pool(n), n)) == 1


@modest
@given(st.sampled_from(MATCHINGS), members_count, rounds)
def test_in_a_matching_everybody_has_at_most_one_peer_with_weight_one_half(
    topology: Topology, n: int, round_: int
) -> None:
    edges = topology.edges(n, round_)
    assert max(degrees(edges, n)) <= 1
    assert set(metropolis(edges, n).values()) <= {0.5}


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32])
def test_one_peer_exponential_reaches_the_exact_mean_in_log2_n_rounds(n: int) -> None:
    product = np.eye(n)
    for round_ in range(3, 3 + n.bit_length() - 1):
        product = mixing(OnePeerExponential(), n, round_) @ product
    np.testing.assert_allclose(product, np.full((n, n), 1 / n))


@modest
@given(members_count, rounds)
def test_a_random_matching_leaves_no_possible_meeting_out(n: int, round_: int) -> None:
    topology = RandomNeighbour(4, 1)
    met = {member for edge in topology.edges(n, round_) for member in edge}
    assert all(i in met or j in met for i, j in topology.pool(n))


def test_random_matchings_differ_from_round_to_round_and_use_the_whole_pool() -> None:
    topology = RandomNeighbour(4, 1)
    drawn = [topology.edges(16, round_) for round_ in range(200)]
    assert len(set(drawn)) > 50
    assert frozenset[tuple[int, int]]().union(*drawn) == topology.pool(16)


def test_meetings_happen_with_their_probability() -> None:
    often, seldom = RandomNeighbour(99, 1), RandomNeighbour(99, 1, 0.2)
    held = [len(seldom.edges(20, round_)) for round_ in range(400)]
    assert {len(often.edges(20, round_)) for round_ in range(20)} == {10}
    assert np.mean(held) == pytest.approx(2.0, abs=0.25)


@modest
@given(st.integers(2, 6), st.integers(0, 50), st.integers(1, 40))
def test_random_regular_graphs_are_regular_and_connected(degree: int, seed: int, n: int) -> None:
    found = degrees(RandomRegular(degree, seed).edges(n, 0), n)
    wanted = min(degree, n - 1)
    odd = wanted * n % 2
    assert sorted(found) == [wanted - 1] * odd + [wanted] * (n - odd)


def test_random_graphs_depend_on_their_seed_and_on_nothing_else() -> None:
    families: list[Any] = [RandomRegular, RandomNeighbour, ErdosRenyi]
    for family in families:
        assert family(seed=1).edges(20, 3) == family(seed=1).edges(20, 3)
        assert family(seed=1).edges(20, 3) != family(seed=2).edges(20, 3)


def test_drawn_graphs_stay_what_they_were_in_earlier_versions() -> None:
    assert sorted(RandomRegular(3, 7).edges(6, 0)) == [
        (0, 2),
        (0, 4),
        (0, 5),
        (1, 2),
        (1, 3),
        (1, 5),
        (2, 3),
        (3, 4),
        (4, 5),
    ]
    assert sorted(RandomNeighbour(3, 7).edges(6, 11)) == [(0, 5), (1, 3)]
    assert sorted(ErdosRenyi(0.3, 7).edges(5, 0)) == [(0, 1), (0, 4), (2, 3), (2, 4), (3, 4)]


def test_shapes_are_what_their_names_say() -> None:
    assert Ring().edges(4, 0) == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert Ring().edges(2, 0) == {(0, 1)}
    assert Complete().edges(4, 0) == set(combinations(range(4), 2))
    assert Star().edges(4, 0) == {(0, 1), (0, 2), (0, 3)}
    assert Exponential().edges(8, 0) >= {(0, 1), (0, 2), (0, 4), (0, 7), (0, 6)}
    assert set(degrees(Exponential().edges(8, 0), 8)) == {5}


@pytest.mark.parametrize(("n", "degree"), [(9, 4), (12, 4), (16, 4), (7, 2), (6, 3), (4, 2)])
def test_a_torus_is_as_square_as_it_can_be(n: int, degree: int) -> None:
    assert set(degrees(Torus().edges(n, 0), n)) == {degree}


def test_a_torus_of_twelve_is_three_by_four() -> None:
    assert {(0, 1), (0, 3), (0, 4), (0, 8)} <= Torus().edges(12, 0)


def test_known_weights_of_a_star() -> None:
    star = Star().edges(4, 0)
    assert set(metropolis(star, 4).values()) == {1 / 4}
    assert metropolis(frozenset({(0, 1), (1, 2), (2, 3)}), 4)[0, 1] == 1 / 3


def test_uniform_weights_of_the_complete_graph_are_the_mean() -> None:
    assert set(uniform(Complete().edges(5, 0), 5).values()) == {1 / 5}
    assert uniform(frozenset(), 3) == {}


def test_named_pairs_follow_the_members_present() -> None:
    topology = make_topology("edges", {"pairs": [["ann", "bob"], ["cyd", "bob"]]})
    assert neighbours(topology, ["ann", "bob", "cyd"], "bob", 0) == {"ann": 1 / 3, "cyd": 1 / 3}
    assert neighbours(topology, ["bob", "cyd", "dan"], "bob", 0) == {"cyd": 1 / 2}
    assert neighbours(topology, ["bob", "dan"], "bob", 0) == {}
    assert partners(topology, ["ann", "bob", "cyd", "dan"], "dan") == ()


def test_pairs_may_be_places() -> None:
    topology = make_topology("edges", {"pairs": [[0, 2], [2, 1], [1, 2], [2, 9]]})
    assert neighbours(topology, ["a", "b", "c"], "c", 0) == {"a": 1 / 3, "b": 1 / 3}


def test_named_pairs_have_no_places_of_their_own() -> None:
    with pytest.raises(ConfigError, match="only among given members"):
        ExplicitEdges((("a", "b"),)).edges(2, 0)


def test_neighbours_come_by_ascending_name() -> None:
    row = neighbours(Complete(), names(12), "node-0005", 0)
    assert list(row) == [name for name in names(12) if name != "node-0005"]


def test_partners_are_everybody_one_may_ever_meet() -> None:
    assert partners(OnePeerExponential(), names(8), "node-0000") == ("node-0001", "node-0002", "node-0004")
    assert partners(Ring(), names(8), "node-0000") == ("node-0001", "node-0007")


@pytest.mark.parametrize("members", [["a", "c"], [], ["c", "b", "a"]])
def test_who_is_no_member_has_no_neighbours_to_ask_for(members: list[str]) -> None:
    with pytest.raises(ValueError, match="not among"):
        neighbours(Ring(), members, "b" if "b" not in members else "a", 0)


class Counting(Topology):
    """A ring that counts how often it is worked out."""

    def __init__(self) -> None:
        self.calls = 0

    def edges(self, n: int, round_: int) -> Edges:
        """Return the ring."""
        self.calls += 1
        return Ring().edges(n, round_)


def test_a_thousand_nodes_share_one_answer() -> None:
    topology, everyone = Counting(), names(1000)
    for round_ in range(3):
        for me in everyone:
            neighbours(topology, everyone, me, round_)
    assert topology.calls == 1


@pytest.mark.parametrize(
    ("topology", "n", "dense"),
    [(Complete(), 2, False), (Ring(), 3, True), (Ring(), 5, True), (Ring(), 6, False), (Complete(), 9, True)],
)
def test_graphs_of_at_least_half_the_edges_are_dense(topology: Topology, n: int, dense: bool) -> None:
    assert is_dense(topology.edges(n, 0), n) is dense


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("rng", {}, "unknown topology 'rng': did you mean 'ring'"),
        ("one-peer-exponental", {}, "did you mean 'one-peer-exponential'"),
        ("random-regular", {"degre": 3}, "did you mean 'degree'"),
        ("random-regular", {"degree": 1}, "degree = 1"),
        ("random-regular", {"degree": 2.5}, "degree = 2.5"),
        ("ring", {"degree": 2}, "no parameter 'degree'"),
        ("erdos-renyi", {"p": 0.0}, "p = 0.0"),
        ("random-neighbour", {"p": 1.5}, "p = 1.5"),
        ("random-neighbour", {"degree": 0}, "degree = 0"),
        ("edges", {}, "needs pairs"),
        ("edges", {"pairs": []}, "empty"),
        ("edges", {"pairs": [["a", "a"]]}, "does not join two"),
        ("edges", {"pairs": [[0, -1]]}, "count from 0"),
        ("edges", {"pairs": [["a", 1]]}, "pairs = "),
        ("edges", {"pairs": [["a", "b", "c"]]}, "pairs = "),
    ],
)
def test_impossible_choices_are_refused_with_their_cure(name: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_topology(name, parameters)


def test_names_do_not_mix_with_places() -> None:
    mixed: Any = (("a", "b"), (0, 1))
    with pytest.raises(ConfigError, match="use one of them"):
        ExplicitEdges(mixed)


def test_unknown_weights_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'metropolis'"):
        neighbours(Ring(), ["a", "b"], "a", 0, "metropols")


def test_components_are_ordered_by_their_smallest_member() -> None:
    parts = components({(4, 1), (2, 5)}, 6)
    assert parts == [[0], [1, 4], [2, 5], [3]]
    assert all(a[0] < b[0] for a, b in pairwise(parts))
