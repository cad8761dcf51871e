from __future__ import annotations

from typing import Any

import pytest

from peermerge.node.config import RunConfig
from peermerge.node.estimate import Estimate, Model, Network, estimate, network, together

MODEL = Model(parameters=1_000_000, full=10_000, tensors=20, weight_bytes=4_000_000)
NAMES = [f"n{i}" for i in range(8)]


def config(**tables: Any) -> RunConfig:
    return RunConfig.model_validate(tables)


def costs(neighbours: int = 2, partners: int = 2, nodes: int = 8, **tables: Any) -> Estimate:
    return estimate(config(**tables), MODEL, Network(nodes=nodes, neighbours=neighbours, partners=partners))


@pytest.mark.parametrize(
    ("name", "parameters", "neighbours", "partners"),
    [
        ("ring", {}, 2, 2),
        ("complete", {}, 7, 7),
        ("star", {}, 7, 7),
        ("one-peer-exponential", {}, 1, 3),
        ("random-neighbour", {"degree": 3, "p": 1.0}, 1, 3),
    ],
)
def test_partners_of_all_rounds_are_told_from_neighbours_of_one(
    name: str, parameters: dict[str, Any], neighbours: int, partners: int
) -> None:
    shape = network(config(topology={"name": name, "parameters": parameters}), NAMES)
    assert shape == Network(nodes=8, neighbours=neighbours, partners=partners)


def test_a_node_alone_sends_nothing() -> None:
    assert network(config(), ["only"]) == Network(nodes=1, neighbours=0, partners=0)


def test_every_neighbour_pulls_one_frame_a_round() -> None:
    assert costs(neighbours=5).round_out == 5 * costs().frame == costs(neighbours=5).round_in


def test_ten_percent_is_far_smaller_than_float32() -> None:
    assert 40 < costs().dense_round_out / costs().round_out < 60


def test_lossless_is_about_three_bytes_a_parameter() -> None:
    assert 22 < costs(publish={"lossless": True}).bits_per_parameter < 23


def test_tensors_sent_whole_cost_about_a_byte_an_entry() -> None:
    model = Model(parameters=10_000, full=10_000, weight_bytes=40_000)
    frame = estimate(config(), model, Network(nodes=2, neighbours=1, partners=1)).frame
    assert 9_000 < frame < 10_500


@pytest.mark.parametrize(
    ("schedule", "merges"),
    [
        ({"rounds": 30}, 30),
        ({"rounds": 30, "every": 10}, 3),
        ({"rounds": 30, "merge": "none"}, 0),
        ({"rounds": 0}, None),
    ],
)
def test_only_rounds_that_merge_cost(schedule: dict[str, Any], merges: int | None) -> None:
    found = costs(schedule=schedule)
    assert found.merges == merges
    assert found.run_out == (None if merges is None else merges * found.round_out)


def test_a_full_merge_at_the_end_sends_whole_states_to_strangers() -> None:
    once = costs(schedule={"rounds": 10, "merge": "none", "final": "all"})
    assert once.merges == 1
    assert once.run_out == 2 * once.frame + 5 * once.snapshot


def test_a_whole_state_is_never_larger_than_float32() -> None:
    assert (
        costs(schedule={"rounds": 100_000}).snapshot == 4 * MODEL.parameters == costs(schedule={"rounds": 0}).snapshot
    )


def test_a_partner_costs_four_bytes_a_parameter_in_memory_and_on_disk() -> None:
    one, two = costs(partners=1), costs(partners=2)
    for part in ("memory", "disk"):
        assert sum(getattr(two, part).values()) - sum(getattr(one, part).values()) == 4 * MODEL.parameters


def test_the_compressor_takes_memory_for_what_is_sent() -> None:
    tenth, fifth = (costs(publish={"density": density}).memory["compressing"] for density in (0.1, 0.2))
    assert fifth - tenth == pytest.approx(0.1 * 24 * MODEL.parameters)
    assert tenth > 2 * 4 * MODEL.parameters


def test_one_process_for_all_shares_torch_and_replicas() -> None:
    found = costs()
    apart, disk = together(found, 8, one_process=False)
    assert (apart, disk) == (8 * sum(found.memory.values()), 8 * sum(found.disk.values()))
    shared, none = together(found, 8, one_process=True)
    assert shared < apart
    assert none == 0
