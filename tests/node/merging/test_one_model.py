import math

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod, Piece, Site
from peermerge.node.merging.fusion import ArceeFusion, quartiles
from peermerge.node.merging.nearswap import NearSwap
from peermerge.node.merging.passthrough import Passthrough
from peermerge.protocol.errors import ConfigError

from .places import draw, merged


def fuse(base: Tensor, *deltas: Tensor) -> Tensor:
    site = Site((1.0,) * len(deltas), (Piece("weight", tuple(base.shape)),), base=base.reshape(-1))
    return ArceeFusion().merge([delta.reshape(-1) for delta in deltas], site).view(base.shape)


@pytest.mark.parametrize("method", [NearSwap(0.3), Passthrough(2.0), ArceeFusion()])
def test_of_several_models_each_is_merged_alone_and_the_results_are_averaged_by_weight(method: MergeMethod) -> None:
    deltas = draw(2, (6, 7), 3)
    alone = [merged(method, [delta], "base", shape=(6, 7)) for delta in deltas]
    both = merged(method, deltas, "base", shape=(6, 7), weights=[3.0, 1.0])
    torch.testing.assert_close(both, 0.75 * alone[0] + 0.25 * alone[1])


def test_nearswap_takes_near_entries_and_moves_far_ones_by_t() -> None:
    delta = torch.tensor([0.05, -0.1, 0.4, -2.0, 0.0])
    assert merged(NearSwap(0.1), [delta], "base").tolist() == pytest.approx([0.05, -0.1, 0.1, -0.1, 0.0])


def test_nearswap_counts_differences_as_a_millionth_at_least() -> None:
    result = merged(NearSwap(5e-7), [torch.tensor([1e-7, 1e-6])], "base")
    assert result.tolist() == pytest.approx([5e-8, 5e-7])


def test_nearswap_relative_to_oneself_moves_by_t_times_the_weight() -> None:
    deltas = [torch.tensor([3.0]), torch.tensor([0.3])]
    assert merged(NearSwap(0.5), deltas, "own").tolist() == pytest.approx([0.5 / 3 + 0.1])


@pytest.mark.parametrize("t", [-1e-4, math.nan, math.inf])
def test_nearswap_refuses_what_is_no_distance(t: float) -> None:
    with pytest.raises(ConfigError, match="t ="):
        NearSwap(t)


def test_passthrough_is_the_model_times_scale() -> None:
    assert merged(Passthrough(), [torch.tensor([1.0, -2.0])], "base", weights=[0.3]).tolist() == pytest.approx(
        [1.0, -2.0]
    )
    assert merged(Passthrough(1.25), [torch.tensor([1.0, -2.0])], "base").tolist() == [1.25, -2.5]


def test_passthrough_refuses_a_scale_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="scale"):
        Passthrough(math.nan)


def test_fusion_takes_the_entries_of_outstanding_importance() -> None:
    random = torch.Generator().manual_seed(1)
    base, delta = torch.randn(20, 30, generator=random), 0.01 * torch.randn(20, 30, generator=random)
    delta[4, 7] = 3.0
    result = fuse(base, delta)
    taken = result != 0
    assert bool(taken[4, 7])
    assert torch.equal(result[taken], delta[taken])
    assert 0 < int(taken.sum()) < 120


def test_fusion_by_hand() -> None:
    # Two rows of two: the second row's distribution stays, so its importance is 0; the first's is |d| KL.
    base = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    delta = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    p = 1 / (1 + math.exp(-2.0))
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    # Sorted importances 0, 0, 0, 2 KL: the quartiles at 0, 1 and 2 are 0, so everything reaches the threshold 0.
    assert divergence > 0
    torch.testing.assert_close(fuse(base, delta), delta)
    # Importances 0 (twice), 0.5 KL, 2 KL: median 0, third quartile 0.5 KL, threshold 0.75 KL.
    base, delta = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[-0.5, 1.5], [3.0, 3.0]])
    assert fuse(base, delta).tolist() == [[0.0, 1.5], [0.0, 0.0]]


def test_fusion_takes_all_of_a_tensor_whose_entries_matter_alike() -> None:
    for shape in ((), (1,), (5, 1)):
        delta = torch.full(shape, 2.0)
        assert torch.equal(fuse(torch.ones(shape), delta), delta)


def test_fusion_of_nothing_is_nothing() -> None:
    assert fuse(torch.empty(0, 3), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 101])
def test_quartiles_are_entries_of_the_sorted_tensor(length: int) -> None:
    values = torch.randperm(length, generator=torch.Generator().manual_seed(length)).float()
    assert [float(q) for q in quartiles(values)] == [int(share * (length - 1)) for share in (0.25, 0.5, 0.75)]
    assert sorted(values.tolist()) == list(range(length))
