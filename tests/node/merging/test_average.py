import torch

from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.average import WeightedMean

A, B = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([3.0, 4.0, 2.0])


def test_the_weighted_mean_is_the_weighted_sum() -> None:
    result = WeightedMean().merge([A, B], [0.25, 0.75], reference="base", seeds=[])
    assert result.tolist() == [2.5, 3.0, 1.0]


def test_a_correction_is_gossip() -> None:
    own = torch.tensor([1.0, 1.0, 1.0])
    correction = WeightedMean().merge([A - own, B - own], [0.25, 0.25], reference="own", seeds=[])
    assert torch.equal(own + correction, 0.5 * own + 0.25 * A + 0.25 * B)


def test_task_arithmetic_adds_what_everybody_learnt() -> None:
    result = TaskArithmetic(scale=0.5).merge([A, B], [0.5, 0.5], reference="base", seeds=[])
    assert torch.equal(result, 0.5 * (A + B))


def test_task_arithmetic_by_one_over_n_is_the_mean() -> None:
    result = TaskArithmetic(scale=1 / 2).merge([A, B], [0.25, 0.75], reference="base", seeds=[])
    torch.testing.assert_close(result, WeightedMean().merge([A, B], [0.25, 0.75], reference="base", seeds=[]))


def test_task_arithmetic_relative_to_oneself_scales_gossip() -> None:
    result = TaskArithmetic(scale=0.5).merge([A, B], [0.25, 0.25], reference="own", seeds=[])
    assert torch.equal(result, 0.125 * (A + B))
