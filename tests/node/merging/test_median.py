import pytest
import torch

from peermerge.node.merging import MergeMethod, Reference
from peermerge.node.merging.clipping import ClippedGossip
from peermerge.node.merging.median import CoordinateMedian, TrimmedMean, middle

from .places import draw, merged


def merge(method: MergeMethod, values: list[list[float]], reference: Reference = "base") -> list[float]:
    found: list[float] = merged(method, [torch.tensor(row) for row in values], reference).tolist()
    return found


def test_the_median_is_taken_entry_by_entry() -> None:
    assert merge(CoordinateMedian(), [[1.0, 5.0, 0.0], [2.0, 5.0, 0.0], [9.0, -5.0, 3.0]]) == [2.0, 5.0, 0.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert merge(CoordinateMedian(), [[1.0], [2.0], [4.0], [100.0]]) == [3.0]
    assert merge(CoordinateMedian(), [[1.0], [2.0]]) == [1.5]


def test_an_entry_that_few_of_many_change_stays() -> None:
    assert merge(CoordinateMedian(), [[7.0], [7.0], [0.0], [0.0], [0.0]]) == [0.0]


def test_relative_to_oneself_own_is_one_of_the_voters() -> None:
    # The median of 0, 3 and 4 is 3; neighbours of weight 1 / 3 each may move by no more than (3 + 4) / 3.
    assert merge(CoordinateMedian(), [[3.0], [4.0]], "own") == pytest.approx([7 / 3])
    assert merge(CoordinateMedian(), [[-3.0], [4.0]], "own") == [0.0]


def test_the_lowest_and_the_highest_are_left_out() -> None:
    assert merge(TrimmedMean(f=1), [[1.0], [100.0], [3.0], [2.0]]) == [2.5]
    assert merge(TrimmedMean(f=2), [[1.0], [100.0], [3.0], [2.0], [-7.0]]) == [2.0]
    assert merge(TrimmedMean(f=0), [[1.0], [2.0], [6.0]]) == pytest.approx([3.0])


def test_too_few_to_leave_some_out_take_clipped_gossip() -> None:
    rows = [[1.0, 0.0], [0.0, 8.0]]
    assert merge(TrimmedMean(f=1), rows) == merge(ClippedGossip(f=1), rows)
    assert merge(TrimmedMean(f=1), rows[:1], "own") == [0.0, 0.0]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_middle_is_that_of_a_sort(count: int) -> None:
    rows = draw(count, 40, count)
    for f in range((count + 1) // 2):
        expected = torch.stack(rows).sort(dim=0).values[f : count - f].mean(0)
        torch.testing.assert_close(middle(rows, f), expected)
