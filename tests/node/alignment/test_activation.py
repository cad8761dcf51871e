from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.alignment import match_units, zip_units
from peermerge.node.alignment.activation import correlation
from peermerge.protocol.errors import ConfigError

ORDER = torch.tensor([2, 0, 3, 1])


def activations(*orders: Tensor, noise: float = 0.1, samples: int = 500) -> Tensor:
    """Return the covariance of four units, and of noisy copies of them in other orders."""
    random = torch.Generator().manual_seed(0)
    units = torch.randn(samples, 4, generator=random) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    copies = [units[:, order] * (1 + noise * torch.randn(samples, 4, generator=random)) for order in orders]
    return torch.cov(torch.cat([units, *copies], dim=1).T)


def given_correlations(pairs: dict[tuple[int, int], float], total: int) -> Tensor:
    found = torch.eye(total)
    for (i, j), value in pairs.items():
        found[i, j] = found[j, i] = value
    return found


def members(unmerge: Tensor) -> list[list[int]]:
    return [column.nonzero().flatten().tolist() for column in unmerge.T]


def test_correlations_have_no_scale_and_a_unit_that_never_varies_none_at_all() -> None:
    found = correlation(torch.tensor([[4.0, 6.0, 0.0], [6.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_units_are_paired_with_the_copies_of_themselves() -> None:
    matching = match_units(activations(ORDER))
    # Unit j of the second model is unit ORDER[j] of the first.
    assert members(matching.unmerge) == [[i, 4 + int(ORDER.argsort()[i])] for i in range(4)]
    assert torch.equal(matching.merge, matching.unmerge.T / 2)


def test_all_models_are_matched_with_the_first() -> None:
    matching = match_units(activations(ORDER, ORDER.flip(0)), models=3)
    places = zip(ORDER.argsort().tolist(), ORDER.flip(0).argsort().tolist(), strict=True)
    assert members(matching.unmerge) == [[i, 4 + one, 8 + other] for i, (one, other) in enumerate(places)]
    assert torch.equal(matching.merge, matching.unmerge.T / 3)


def test_merged_weights_are_a_true_mean() -> None:
    matching = zip_units(activations(ORDER))
    torch.testing.assert_close(matching.merge.sum(1), torch.ones(4), rtol=0, atol=1e-7)
    torch.testing.assert_close(matching.merge @ matching.unmerge, torch.eye(4))


def test_zipping_finds_the_copies_as_well() -> None:
    zipped, matched = zip_units(activations(ORDER)), match_units(activations(ORDER))
    assert sorted(members(zipped.unmerge)) == sorted(members(matched.unmerge))


def test_the_most_correlated_units_become_one_within_a_model_too() -> None:
    worth = given_correlations({(0, 1): 0.9, (2, 3): 0.8, (0, 2): 0.5, (1, 3): 0.1}, 4)
    assert members(zip_units(worth, b=1.0).unmerge) == [[0, 1], [2, 3]]


def test_a_model_with_its_budget_spent_merges_with_others_only() -> None:
    worth = given_correlations({(0, 1): 0.9, (2, 0): 0.8, (2, 1): 0.8, (2, 5): 0.2, (0, 3): 0.1}, 6)
    # b = 0 lets one pair of each model merge: 0 and 1. The next best pairs, with 2, are of the same model.
    assert members(zip_units(worth, a=1.0, b=0.0, r=1 / 3).unmerge) == [[0, 1], [2, 5], [3], [4]]
    assert members(zip_units(worth, a=1.0, b=2.0, r=1 / 3).unmerge) == [[0, 1, 2], [3], [4], [5]]


def test_small_a_keeps_merged_units_from_merging_again() -> None:
    worth = given_correlations({(0, 2): 0.9, (0, 3): 0.8, (2, 3): 0.8, (1, 3): 0.3}, 4)
    assert members(zip_units(worth, a=1.0).unmerge) == [[0, 2, 3], [1]]
    assert members(zip_units(worth, a=0.1).unmerge) == [[0, 2], [1, 3]]


def test_nothing_to_remove_leaves_the_units_as_they_are() -> None:
    matching = zip_units(activations(ORDER), r=0.0)
    assert torch.equal(matching.merge, torch.eye(8))
    assert torch.equal(matching.unmerge, torch.eye(8))


def test_the_covariance_is_not_changed() -> None:
    covariance = activations(ORDER)
    before = covariance.clone()
    zip_units(covariance)
    match_units(covariance)
    assert torch.equal(covariance, before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"models": 3}, r"shape \(8, 8\) is not that of 3 models"),
        ({"models": 0}, "0 models"),
        ({"r": 1.0}, "r = 1.0"),
        ({"r": -0.1}, "r = -0.1"),
        ({"a": 0.0}, "a = 0.0"),
        ({"b": -1.0}, "b = -1.0"),
        ({"r": 0.875, "b": 0.0}, "no two units are left"),
    ],
)
def test_impossible_zips_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        zip_units(activations(ORDER), **options)
