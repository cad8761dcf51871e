import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from peermerge.protocol.errors import ConfigError

from .places import merged

TEN = torch.tensor([1.0, -10.0, 2.0, -9.0, 3.0, -8.0, 4.0, -7.0, 5.0, -6.0])


def left(method: Breadcrumbs, delta: Tensor, shape: tuple[int, ...] | None = None) -> list[float]:
    result: list[float] = merged(method, [delta], "base", shape=shape).tolist()
    return result


def test_the_largest_and_the_smallest_are_left_out() -> None:
    assert left(Breadcrumbs(density=0.5, gamma=0.2), TEN) == [0, 0, 0, 0, 0, -8, 4, -7, 5, -6]


def test_outliers_stay_where_density_leaves_too_few_to_remove() -> None:
    assert left(Breadcrumbs(density=0.9, gamma=0.3), TEN) == [1, 0, 2, -9, 3, -8, 4, -7, 5, -6]
    assert left(Breadcrumbs(density=1.0, gamma=0.3), TEN) == TEN.tolist()


def test_of_equal_magnitudes_the_smaller_index_counts_as_larger() -> None:
    assert left(Breadcrumbs(density=0.5, gamma=0.25), torch.tensor([2.0, -2.0, 2.0, -2.0])) == [0, -2, 2, 0]


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_single_entry_is_too_few_for_any_share(shape: tuple[int, ...]) -> None:
    assert left(Breadcrumbs(density=0.9, gamma=0.01), torch.tensor([3.0]), shape) == [0]


def test_the_official_code_ranks_every_row() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    method = Breadcrumbs(density=0.5, gamma=0.25, variant="official")
    assert left(method, rows.view(-1), (2, 4)) == [0, 2, 3, 0, 0, 30, 20, 0]


def test_outliers_removed_last_are_taken_from_what_is_kept() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    method = Breadcrumbs(density=0.5, gamma=0.25, variant="official", remove_first=False)
    assert left(method, rows.view(-1), (2, 4)) == [0, 0, 3, 0, 0, 5, 0, 0]


def test_the_official_code_leaves_scalars_whole() -> None:
    assert left(Breadcrumbs(variant="official"), torch.tensor([3.0]), ()) == [3]
    assert left(Breadcrumbs(variant="official"), torch.tensor([3.0]), (1,)) == [0]


def test_rows_are_ranked_alike_however_many_there_are() -> None:
    random = torch.Generator().manual_seed(1)
    rows = torch.randint(-9, 10, (3000, 40), generator=random).float()
    method = Breadcrumbs(density=0.5, gamma=0.1, variant="official")
    first = merged(method, [rows[:2].reshape(-1)], "base", shape=(2, 40))
    assert torch.equal(merged(method, [rows.view(-1)], "base", shape=(3000, 40))[:80], first)


def test_merge_llm_counts_the_smallest_and_keeps_what_ties_with_a_cut_off() -> None:
    # 1 - density removes 4 of 10: with gamma 0.2 two of them, less the last, are the smallest, and two the largest.
    method = Breadcrumbs(density=0.6, gamma=0.2, variant="merge_llm")
    assert left(method, TEN) == [0, 0, 2, 0, 3, -8, 4, -7, 5, -6]
    assert left(method, torch.full((10,), 2.0)) == [2] * 10


@pytest.mark.parametrize("variant", ["mergekit", "merge_llm"])
@pytest.mark.parametrize("density", [0.2, 0.9])
def test_zeros_may_be_left_out(variant: str, density: float) -> None:
    random = torch.Generator().manual_seed(2)
    delta = torch.randn(200, generator=random) * (torch.rand(200, generator=random) < 0.3)
    method = make_method("breadcrumbs", {"variant": variant, "density": density, "gamma": 0.05})
    assert method.sparse
    site = Site((1.0,), (Piece("weight", (200,)),))
    assert torch.equal(method.merge([delta[delta != 0]], site), method.merge([delta], site)[delta != 0])


def test_weights_scale_and_mean_count() -> None:
    deltas = [torch.tensor([1.0, 2.0]), torch.tensor([4.0, -8.0])]
    whole = {"density": 1.0, "gamma": 0.0}
    sums = merged(make_method("breadcrumbs", {**whole, "scale": 0.5}), deltas, "base", weights=[1.0, 3.0])
    assert sums.tolist() == [6.5, -11.0]
    means = merged(make_method("breadcrumbs", {**whole, "aggregate": "mean"}), deltas, "base", weights=[1.0, 3.0])
    assert means.tolist() == [3.25, -5.5]


def test_rescaling_gives_what_is_left_the_sum_of_magnitudes_that_there_was() -> None:
    result = merged(Breadcrumbs(density=0.5, gamma=0.2, rescale=True), [TEN], "base")
    assert float(result.abs().sum()) == pytest.approx(55.0)
    assert result[5] == pytest.approx(-8 * 55 / 30)


def test_densities_may_be_one_per_contributor() -> None:
    result = merged(Breadcrumbs(density=(1.0, 0.5), gamma=0.2), [TEN, TEN], "base")
    assert result.tolist() == [1, -10, 2, -9, 3, -16, 8, -14, 10, -12]
    with pytest.raises(ConfigError, match="one for each"):
        merged(Breadcrumbs(density=(1.0, 0.5)), [TEN], "base")


def test_signs_are_elected_after_the_cut() -> None:
    deltas = [torch.tensor([100.0, 3.0, -1.0]), torch.tensor([-2.0, 50.0, -1.0]), torch.tensor([-3.0, 2.0, 90.0])]
    method = BreadcrumbsTies(density=0.67, gamma=0.34)
    assert merged(method, deltas, "base").tolist() == [-5, 5, -2]
    mean = BreadcrumbsTies(density=0.67, gamma=0.34, aggregate="mean")
    assert merged(mean, deltas, "base").tolist() == [-2.5, 2.5, -1]


def test_relative_to_oneself_neighbours_count_by_their_weight() -> None:
    rows = [torch.tensor([4.0, 8.0]), torch.tensor([4.0, -4.0])]
    whole = {"density": 1.0, "gamma": 0.0}
    linear = merged(make_method("breadcrumbs", whole), rows, "own", weights=[0.25, 0.25])
    assert linear.tolist() == [2, 1]
    elected = merged(make_method("breadcrumbs-ties", whole), rows, "own", weights=[0.25, 0.25])
    assert elected.tolist() == [2, 2]


@pytest.mark.parametrize(("key", "value"), [("density", 0.0), ("density", 1.5), ("gamma", 1.0), ("gamma", -0.1)])
def test_shares_that_mean_nothing_are_refused(key: str, value: float) -> None:
    for name in ("breadcrumbs", "breadcrumbs-ties"):
        with pytest.raises(ConfigError, match=f"{key} = {value}"):
            make_method(name, {key: value})
