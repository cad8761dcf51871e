"""A partition covers everything once, leaves nobody empty-handed and is the same everywhere."""

from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.tasks.partition import Indices, own_part, split
from peermerge.node.tasks.task import Shard
from peermerge.protocol.errors import ConfigError

Case: TypeAlias = tuple[Indices, int, int]
"""Labels, number of nodes, and the least that each must get."""

ways = st.sampled_from(["iid", "classes", "dirichlet:0.05", "dirichlet:1", "dirichlet:100"])


@st.composite
def labels_and_nodes(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 12))
    minimum = draw(st.integers(0, 8))
    size = draw(st.integers(max(1, count * minimum), count * minimum + 150))
    classes = draw(st.integers(1, 11))
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, classes, size)
    return labels, count, minimum


@settings(max_examples=100, deadline=None)
@given(labels_and_nodes(), ways, st.integers(0, 2**40))
def test_parts_cover_every_example_once_and_keep_the_minimum(case: Case, how: str, seed: int) -> None:
    labels, count, minimum = case
    parts = split(labels, count, how, seed, minimum)
    assert len(parts) == count
    assert min(len(part) for part in parts) >= minimum
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.all(np.diff(part) > 0) for part in parts)


@settings(max_examples=20, deadline=None)
@given(labels_and_nodes(), ways, st.integers(0, 99))
def test_the_same_arguments_give_the_same_parts(case: Case, how: str, seed: int) -> None:
    labels, count, minimum = case
    once, again = split(labels, count, how, seed, minimum), split(labels.copy(), count, how, seed, minimum)
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))


def test_iid_parts_differ_in_size_by_one_at_most() -> None:
    sizes = [len(part) for part in split(np.zeros(103, np.int64), 5, "iid", 0, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_another_seed_gives_other_parts() -> None:
    labels = np.arange(200) % 10
    assert not np.array_equal(split(labels, 2, "iid", 0, 0)[0], split(labels, 2, "iid", 1, 0)[0])


def test_class_c_goes_to_node_c_mod_n() -> None:
    labels = np.arange(1_000) % 10
    held = [set(labels[part].tolist()) for part in split(labels, 5, "classes", 3)]
    assert held == [{0, 5}, {1, 6}, {2, 7}, {3, 8}, {4, 9}]


def test_nodes_beyond_the_classes_share_a_class() -> None:
    labels = np.arange(60) % 3
    parts = split(labels, 7, "classes", 0, 1)
    assert [set(labels[part].tolist()) for part in parts] == [{0}, {1}, {2}, {0}, {1}, {2}, {0}]


def test_a_small_alpha_is_less_even_than_a_large_one() -> None:
    labels = np.arange(2_000) % 10

    def unevenness(how: str) -> float:
        parts = split(labels, 5, how, 0, 0)
        return float(np.std([np.bincount(labels[part], minlength=10) for part in parts]))

    assert unevenness("dirichlet:0.1") > 3 * unevenness("dirichlet:10")


@pytest.mark.parametrize(
    "how", ["", "IID", "iid:1", "classes:2", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0", "dirichlet:nan"]
)
def test_an_unknown_way_is_refused_with_the_cure(how: str) -> None:
    with pytest.raises(ConfigError, match=r"dirichlet:|0\.1"):
        split(np.zeros(100, np.int64), 2, how, 0, 1)


def test_too_few_examples_for_the_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="use fewer nodes"):
        split(np.zeros(100, np.int64), 2, "iid", 0)


def test_every_shard_takes_the_part_of_its_index() -> None:
    labels = np.arange(640) % 10
    taken = [own_part(labels, Shard(index, 4, 7), "dirichlet:0.1", 32) for index in range(4)]
    assert all(
        np.array_equal(one, other) for one, other in zip(taken, split(labels, 4, "dirichlet:0.1", 7), strict=True)
    )


def test_many_nodes_with_little_data_still_get_half_an_even_share() -> None:
    labels = np.arange(640) % 10
    assert min(len(own_part(labels, Shard(index, 64), "dirichlet:0.1", 32)) for index in range(64)) >= 5
