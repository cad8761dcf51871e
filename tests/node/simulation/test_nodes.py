"""Who meets whom, counted before anybody runs."""

from __future__ import annotations

import pytest

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation.nodes import check_ends, meetings, node_config, node_names, pool_edges
from peermerge.protocol.errors import ConfigError


def config(**over: object) -> SimulationConfig:
    return load(SimulationConfig, None, {key.replace("__", "."): value for key, value in over.items()})


def test_names_sort_as_indexes_do() -> None:
    names = node_names(config(simulation__nodes=120))
    assert names == sorted(names)
    assert names[119] == "n0119"


def test_a_node_s_configuration_is_the_run_s_with_its_own_shard_and_name() -> None:
    node = node_config(config(simulation__nodes=3, seed=7), 2, threads=1)
    assert (node.node.name, node.task.index, node.task.count) == ("n0002", 2, 3)
    assert (node.seed, node.node.threads) == (7, 1)


def test_in_a_ring_everybody_meets_two_neighbours_a_round() -> None:
    assert set(meetings(config(simulation__nodes=5, topology__name="ring", schedule__rounds=6)).values()) == {12}


def test_rounds_without_a_merge_count_nothing() -> None:
    ring = config(simulation__nodes=5, topology__name="ring", schedule__rounds=6, schedule__every=3)
    assert set(meetings(ring).values()) == {4}
    assert set(meetings(config(schedule__merge="none")).values()) == {0}


def test_a_final_full_merge_meets_everybody() -> None:
    late = config(simulation__nodes=5, schedule__rounds=6, schedule__merge="none", schedule__final="all")
    assert set(meetings(late).values()) == {4}


def test_one_peer_graphs_meet_one_neighbour_a_round() -> None:
    peer = config(simulation__nodes=4, topology__name="one-peer-exponential", schedule__rounds=5)
    assert set(meetings(peer).values()) == {5}
    assert len(pool_edges(peer)) == 4


def test_a_simulation_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="never ends"):
        check_ends(config(schedule__rounds=0))
