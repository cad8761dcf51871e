import torch

from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.average import WeightedMean

from .places import merged

A, B = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([3.0, 4.0, 2.0])


def test_the_weighted_mean_is_the_weighted_sum() -> None:
    result = merged(WeightedMean(), [A, B], "base", weights=[0.25, 0.75])
    assert result.tolist() == [2.5, 3.0, 1.0]


def test_a_correction_is_gossip() -> None:
    own = torch.tensor([1.0, 1.0, 1.0])
    correction = merged(WeightedMean(), [A - own, B - own], "own", weights=[0.25, 0.25])
    assert torch.equal(own + correction, 0.5 * own + 0.25 * A + 0.25 * B)


def test_task_arithmetic_adds_what_everybody_learnt() -> None:
    result = merged(TaskArithmetic(scale=0.5), [A, B], "base")
    assert torch.equal(result, 0.5 * (A + B))


def test_task_arithmetic_by_one_over_n_is_the_mean() -> None:
    result = merged(TaskArithmetic(scale=1 / 2), [A, B], "base", weights=[0.5, 1.5])
    torch.testing.assert_close(result, merged(WeightedMean(), [A, B], "base", weights=[0.25, 0.75]))


def test_task_arithmetic_relative_to_oneself_scales_gossip() -> None:
    result = merged(TaskArithmetic(scale=0.5), [A, B], "own", weights=[0.25, 0.25])
    assert torch.equal(result, 0.125 * (A + B))


def test_weights_that_cancel_out_are_not_divided_by() -> None:
    assert merged(WeightedMean(), [A, B], "base", weights=[1.0, -1.0]).tolist() == (A - B).tolist()


def test_halves_of_coarse_values_are_exact_whatever_the_weights_sum_to() -> None:
    result = merged(WeightedMean(), [torch.tensor([1.0078125]), torch.tensor([1.015625])], "base", weights=[0.7, 0.7])
    assert result.item() == 1.01171875
