import pytest
import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod, Reference
from peermerge.node.merging.clipping import ClippedGossip
from peermerge.node.merging.krum import MultiKrum, NnmTrimmedMean

from .places import merged

LINE = [0.0, 1.0, 2.0, 3.0, 100.0]


def rows(values: list[float]) -> list[Tensor]:
    return [torch.tensor([value, 0.0]) for value in values]


def merge(method: MergeMethod, values: list[float], reference: Reference = "base") -> float:
    return float(merged(method, rows(values), reference)[0])


def test_multi_krum_averages_those_whom_most_stand_near_to() -> None:
    assert merge(MultiKrum(f=1), LINE) == pytest.approx(1.5)


def test_multi_krum_scores_by_squared_distances_to_the_nearest_others() -> None:
    # With f = 1 of 6 the four nearest others count. 0: 1 + 1 + 9 + 9, 1 and 1: 0 + 1 + 4 + 4, 3 and 3: 0 + 4 + 4 + 9,
    # 9: 36 + 36 + 64 + 64. All but the last are averaged.
    assert merge(MultiKrum(f=1), [9.0, 0.0, 1.0, 1.0, 3.0, 3.0]) == pytest.approx(8 / 5)


def test_equal_scores_share_the_last_places() -> None:
    # -1 and 1 are equally far from the others, and one place is left for the two of them.
    assert merge(MultiKrum(f=1), [0.0, 0.0, 0.0, -1.0, 1.0]) == 0.0
    found = merged(MultiKrum(f=1), [*rows([0.0, 0.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([4.0, 0.0])], "base")
    assert found.tolist() == pytest.approx([0.5, 0.5])


def test_nnm_mixes_every_delta_with_its_nearest_before_it_trims() -> None:
    # 0, 1, 2 and 3 become 1.5 each, 100 becomes (100 + 3 + 2 + 1) / 4 and is trimmed.
    assert merge(NnmTrimmedMean(f=1), LINE) == pytest.approx(1.5)
    # With f = 2 every delta is the mean of three, and the middle one of the five is left.
    mixed = [
        (0.0 + 1.0 + 2.2) / 3,  # 0
        (0.0 + 1.0 + 2.2) / 3,  # 1
        (1.0 + 2.2 + 3.1) / 3,  # 2.2
        (1.0 + 2.2 + 3.1) / 3,  # 3.1
        (2.2 + 3.1 + 100.0) / 3,  # 100
    ]
    assert merge(NnmTrimmedMean(f=2), [0.0, 1.0, 2.2, 3.1, 100.0]) == pytest.approx(sorted(mixed)[2])


def test_relative_to_oneself_own_is_one_of_the_rows() -> None:
    assert merge(MultiKrum(f=1), LINE[1:], "own") == pytest.approx(1.5)
    assert merge(NnmTrimmedMean(f=1), LINE[1:], "own") == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("method", "count"), [(MultiKrum(f=1), 4), (NnmTrimmedMean(f=1), 2), (MultiKrum(f=2), 6), (NnmTrimmedMean(f=2), 4)]
)
def test_fewer_rows_than_the_rule_needs_take_clipped_gossip(method: MultiKrum | NnmTrimmedMean, count: int) -> None:
    values = [3.0, 1.0, -50.0, 2.0, 5.0, 8.0][:count]
    assert merge(method, values) == merge(ClippedGossip(f=method.f), values)
    assert merge(method, [*values, 4.0, 4.0, 4.0]) != merge(ClippedGossip(f=method.f), [*values, 4.0, 4.0, 4.0])


def test_distances_are_of_whole_models_unless_told_otherwise() -> None:
    assert MultiKrum().scope == NnmTrimmedMean().scope == "global"
    assert MultiKrum(scope="tensor").scope == "tensor"
