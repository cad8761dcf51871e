import math

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod, Reference
from peermerge.node.merging.average import WeightedMean
from peermerge.node.merging.clipping import Clip, ClippedGossip
from peermerge.protocol.errors import ConfigError

from .places import draw, merged

ROWS = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, -8.0])]


def merge(
    method: MergeMethod, rows: list[Tensor], reference: Reference, weights: list[float] | None = None
) -> list[float]:
    found: list[float] = merged(method, rows, reference, weights=weights).tolist()
    return found


def test_what_is_longer_than_the_median_is_shortened_to_it() -> None:
    assert merge(Clip(factor=1.0), ROWS, "base") == pytest.approx([1 / 3, (2 - 2) / 3])


def test_the_factor_counts_in_medians() -> None:
    assert merge(Clip(factor=2.0), ROWS, "base") == pytest.approx([1 / 3, (2 - 4) / 3])
    assert merge(Clip(factor=4.0), ROWS, "base") == pytest.approx([1 / 3, (2 - 8) / 3])


def test_of_an_even_number_the_lower_median_counts() -> None:
    assert merge(Clip(factor=1.0), [torch.tensor([1.0]), torch.tensor([1e6])], "base") == pytest.approx([1.0])


def test_clipping_keeps_the_weights_of_those_who_are_clipped() -> None:
    assert merge(Clip(factor=1.0), ROWS, "base", [2.0, 1.0, 1.0]) == pytest.approx([0.5, 0.0])


def test_relative_to_oneself_the_medians_are_of_the_neighbours_distances() -> None:
    assert merge(Clip(factor=1.0), ROWS, "own") == pytest.approx([1 / 4, (2 - 2) / 4])


def test_where_half_of_the_deltas_are_zero_nothing_moves() -> None:
    assert merge(Clip(), [torch.zeros(2), torch.zeros(2), ROWS[0]], "base") == [0.0, 0.0]


def test_clipped_gossip_moves_no_further_towards_a_far_neighbour_than_the_nearer_ones_are() -> None:
    # Four with oneself, one of them hostile: tau is the distance of the second nearest, 2.
    assert merge(ClippedGossip(), ROWS, "own", [0.25, 0.25, 0.25]) == pytest.approx([0.25, 0.5 - 0.5])
    assert merge(ClippedGossip(f=2), ROWS, "own", [0.25, 0.25, 0.25]) == pytest.approx([0.25, 0.25 - 0.25])


def test_clipped_gossip_without_hostile_neighbours_is_gossip_averaging() -> None:
    deltas, weights = draw(3, 50, 2), [0.5, 0.125, 0.25]
    plain = merged(WeightedMean(), deltas, "own", weights=weights)
    torch.testing.assert_close(merged(ClippedGossip(f=0), deltas, "own", weights=weights), plain)


@pytest.mark.parametrize("f", [3, 4, 100])
def test_where_all_neighbours_may_be_hostile_own_stays(f: int) -> None:
    assert merge(ClippedGossip(f=f), ROWS, "own") == [0.0, 0.0]


def test_relative_to_the_base_the_norms_are_cut_at_the_largest_but_f() -> None:
    assert merge(ClippedGossip(f=1), ROWS, "base") == pytest.approx([1 / 3, (2 - 2) / 3])
    assert merge(ClippedGossip(f=5), ROWS, "base") == pytest.approx([1 / 3, (1 - 1) / 3])


def test_weights_need_not_sum_to_one_relative_to_the_base() -> None:
    whole, parts = merge(ClippedGossip(f=1), ROWS, "base", [2.0, 2.0, 4.0]), [0.25, 0.25, 0.5]
    assert whole == pytest.approx(merge(ClippedGossip(f=1), ROWS, "base", parts))


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_factors_that_clip_all_or_nothing_are_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match="factor"):
        Clip(factor=factor)
