import math

import pytest
import torch

from peermerge.node.merging.blocks import BLOCK
from peermerge.node.merging.distances import gram, norms, shares_of_smallest, square_distances


def test_norms_and_products_are_those_of_the_rows() -> None:
    rows = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)]
    assert norms(rows).tolist() == [5.0, 1.0, 0.0]
    assert gram(rows).tolist() == [[25.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert square_distances(rows).tolist() == [[0.0, 20.0, 25.0], [20.0, 0.0, 1.0], [25.0, 1.0, 0.0]]


def test_squares_beyond_float32_do_not_overflow() -> None:
    assert norms([torch.tensor([3e38, 0.0])]).item() == pytest.approx(3e38)


def test_what_small_entries_add_to_a_long_row_is_not_lost() -> None:
    # In float32 a sum of ones stops growing at 2 ** 24.
    length = 2**24 + 2**15
    assert norms([torch.ones(length)]).item() == pytest.approx(math.sqrt(length), rel=1e-12)


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_sums_over_blocks_equal_the_sum_over_the_whole(length: int) -> None:
    random = torch.Generator().manual_seed(length)
    rows = [torch.randn(length, generator=random) for _ in range(3)]
    whole = torch.stack(rows).double()
    torch.testing.assert_close(gram(rows), whole @ whole.T)
    torch.testing.assert_close(norms(rows), whole.norm(dim=1))


def test_distances_are_symmetric_not_negative_and_zero_to_oneself() -> None:
    random = torch.Generator().manual_seed(1)
    start = torch.randn(1000, generator=random)
    found = square_distances([start, start + 1e-7, start.clone()])
    assert torch.equal(found, found.T)
    assert bool((found >= 0).all())
    assert found.diagonal().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "count", "shares"),
    [
        ([3.0, 1.0, 2.0], 2, [0.0, 0.5, 0.5]),
        ([3.0, 1.0, 2.0], 3, [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 1.0, 1.0], 2, [0.5, 0.25, 0.25]),
        ([5.0, 5.0, 5.0, 5.0], 1, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_equal_values_share_the_last_places(values: list[float], count: int, shares: list[float]) -> None:
    assert shares_of_smallest(torch.tensor(values).double(), count).tolist() == pytest.approx(shares)
