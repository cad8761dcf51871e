"""The mean model and the distance from it."""

from __future__ import annotations

import math

import pytest
import torch

from peermerge.node.config import SimulationConfig
from peermerge.node.simulation.mean import Judge, consensus_distance, mean_weights


def test_the_mean_is_taken_tensor_by_tensor_as_float32() -> None:
    nodes = [{"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([4.0, 2.0])}]
    mean = mean_weights(nodes)["a"]
    assert mean.dtype is torch.float32
    assert mean.tolist() == [2.0, 2.0]


def test_the_distance_is_the_root_mean_square_over_the_nodes() -> None:
    # Distances to the mean (2, 2): 2 and 2; the tensor that is not named does not count.
    nodes = [{"a": torch.tensor([0.0, 2.0]), "b": torch.zeros(1)}, {"a": torch.tensor([4.0, 2.0]), "b": torch.ones(1)}]
    assert consensus_distance(nodes, ["a"]) == 2.0


def test_nodes_that_agree_are_at_distance_zero() -> None:
    assert consensus_distance([{"a": torch.ones(3)}] * 4, ["a"]) == 0.0


def test_a_judge_measures_what_it_is_given_and_counts_what_is_exchanged() -> None:
    judge = Judge(SimulationConfig())
    untrained = judge.measure({})
    assert untrained["accuracy"] < 0.5
    constant = judge.measure({name: torch.zeros(()) for name in judge.names})
    assert constant["loss"] == pytest.approx(math.log(10))
    assert judge.parameters == 25_874
    assert set(judge.exchanged) == set(judge.names)
