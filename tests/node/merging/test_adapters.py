import pytest
import torch
from torch import Tensor

from peermerge.node.merging.adapters import Adapter, cat, linear, low_rank, merge_dense, svd
from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.dare import DareLinear
from peermerge.node.merging.ties import Ties
from peermerge.protocol.errors import ConfigError

WEIGHTS = [0.5, -0.3, 0.7]


def adapters(ranks: list[int], seed: int = 0) -> list[Adapter]:
    random = torch.Generator().manual_seed(seed)
    return [
        Adapter(torch.randn(rank, 7, generator=random), torch.randn(5, rank, generator=random), 2.0) for rank in ranks
    ]


def weighted(drawn: list[Adapter]) -> Tensor:
    return torch.stack([weight * adapter.delta for weight, adapter in zip(WEIGHTS, drawn, strict=True)]).sum(0)


def test_an_update_is_the_scaled_product() -> None:
    adapter = Adapter(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), 0.5)
    assert adapter.delta.tolist() == [[1.5, 3.0], [2.0, 4.0]]


def test_cat_is_the_weighted_sum_of_updates_of_any_ranks() -> None:
    drawn = adapters([2, 3, 1])
    merged = cat(drawn, WEIGHTS)
    assert merged.a.shape == (6, 7)
    torch.testing.assert_close(merged.delta, weighted(drawn))


def test_linear_of_one_adapter_is_its_weighted_update() -> None:
    for weight in (0.5, -0.5, 0.0):
        drawn = adapters([2])
        torch.testing.assert_close(linear(drawn, [weight]).delta, weight * drawn[0].delta)


def test_linear_has_cross_terms() -> None:
    first = Adapter(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    second = Adapter(torch.tensor([[3.0]]), torch.tensor([[5.0]]))
    # (1 + 2 * 3) (2 + 2 * 5), not 1 * 2 + 4 * 3 * 5.
    assert linear([first, second], [1.0, 4.0]).delta.item() == pytest.approx(84.0)


def test_linear_refuses_different_ranks() -> None:
    with pytest.raises(ConfigError, match="use cat or svd"):
        linear(adapters([2, 3]), [1.0, 1.0])


def test_svd_of_the_whole_rank_is_exact() -> None:
    drawn = adapters([2, 1, 1])
    torch.testing.assert_close(svd(drawn, WEIGHTS, 4).delta, weighted(drawn))


@pytest.mark.parametrize("ranks", [[1, 1, 1], [4, 4, 4]], ids=["thin", "wider than the module"])
def test_svd_is_the_best_update_of_its_rank(ranks: list[int]) -> None:
    drawn = adapters(ranks)
    u, s, v = torch.linalg.svd(weighted(drawn), full_matrices=False)
    merged = svd(drawn, WEIGHTS, 2)
    assert (merged.a.shape, merged.b.shape) == ((2, 7), (5, 2))
    torch.testing.assert_close(merged.delta, (u[:, :2] * s[:2]) @ v[:2], rtol=1e-4, atol=1e-5)


def test_low_rank_leaves_directions_at_length_one_in_a() -> None:
    adapter = low_rank(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
    assert adapter.a.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    torch.testing.assert_close(adapter.delta, torch.diag(torch.tensor([3.0, 2.0, 0.0])))


@pytest.mark.parametrize("rank", [0, -1])
def test_ranks_are_positive(rank: int) -> None:
    with pytest.raises(ConfigError, match="rank"):
        svd(adapters([2]), [1.0], rank)


def test_methods_merge_dense_updates() -> None:
    drawn = adapters([2, 3, 1])
    torch.testing.assert_close(merge_dense(TaskArithmetic(), drawn, WEIGHTS), weighted(drawn))
    elected = merge_dense(Ties(1.0, variant="peft"), drawn, [1.0] * 3)
    deltas = torch.stack([adapter.delta for adapter in drawn])
    agree = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    torch.testing.assert_close(elected, (deltas * agree).sum(0) / agree.sum(0).clamp(min=1))


def test_methods_that_draw_take_a_seed_for_each_adapter() -> None:
    drawn = adapters([2, 2])
    first, same, other = (
        merge_dense(DareLinear(0.5), drawn, [1.0, 1.0], seeds=seeds) for seeds in ((1, 2), (1, 2), (3, 4))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_bfloat16_factors_give_float32_updates() -> None:
    drawn = [Adapter(adapter.a.bfloat16(), adapter.b.bfloat16(), 2.0) for adapter in adapters([2, 2])]
    assert drawn[0].delta.dtype == torch.float32
    assert svd(drawn, [1.0, 1.0], 1).delta.dtype == torch.float32


@pytest.mark.parametrize(("a", "b"), [((2, 3), (4, 3)), ((3,), (4, 3))])
def test_factors_that_are_no_pair_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="no pair"):
        Adapter(torch.zeros(a), torch.zeros(b))


def test_adapters_that_do_not_go_together_are_refused() -> None:
    drawn = adapters([2, 2])
    for broken, says in (
        (lambda: cat([], []), "no adapters"),
        (lambda: cat(drawn, [1.0]), "one weight"),
        (lambda: cat([*drawn, Adapter(torch.zeros(2, 9), torch.zeros(5, 2))], [1.0] * 3), "one module"),
        (lambda: merge_dense(TaskArithmetic(), drawn, [1.0]), "one weight"),
    ):
        with pytest.raises(ConfigError, match=says):
            broken()
