from typing import Literal

import pytest
import torch

from peermerge.node.merging.isotropic import IsoC, IsoCts, specific

from .matrix_cases import awkward
from .places import draw, merged


def diagonal(*values: float) -> torch.Tensor:
    return torch.diag(torch.tensor(values)).reshape(-1)


def test_all_directions_of_the_sum_get_the_mean_length() -> None:
    result = merged(IsoC(), [diagonal(5.0, 0.0), diagonal(1.0, -2.0)], "base", shape=(2, 2))
    torch.testing.assert_close(result, diagonal(4.0, -4.0))


def test_weights_count_in_the_sum_and_scale_multiplies() -> None:
    result = merged(IsoC(0.5), [diagonal(5.0, 0.0), diagonal(1.0, -2.0)], "base", shape=(2, 2), weights=[1.0, 3.0])
    torch.testing.assert_close(result, diagonal(3.5, -3.5))


def test_directions_that_nobody_moved_stay_but_count_in_the_mean() -> None:
    result = merged(IsoC(), [diagonal(4.0, 0.0)], "base", shape=(2, 2))
    torch.testing.assert_close(result, diagonal(2.0, 0.0))
    theirs = merged(IsoC(variant="fusion_bench"), [diagonal(4.0, 0.0)], "base", shape=(2, 2))
    torch.testing.assert_close(theirs.abs(), diagonal(2.0, 2.0))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_the_library_s_variants_are_the_same_where_all_directions_are_there(shape: tuple[int, int]) -> None:
    deltas = awkward(shape)["distinct"]
    variants: tuple[Literal["paper", "fusion_bench"], ...] = ("paper", "fusion_bench")
    torch.testing.assert_close(*(merged(IsoC(variant=v), deltas, "base", shape=shape) for v in variants))
    torch.testing.assert_close(*(merged(IsoCts(variant=v), deltas, "base", shape=shape) for v in variants))


@pytest.mark.parametrize(
    ("rank", "contributors", "common", "each"),
    [
        (10, 2, 0.8, 1),
        (40, 4, 0.8, 2),
        (1, 4, 0.8, 0),
        (10, 2, 1.0, 0),
        (10, 2, 0.0, 5),
        (3, 2, 0.0, 1),
        (2, 4, 0.0, 0),
    ],
)
def test_the_rest_is_shared_out_equally_and_never_exceeds_the_rank(
    rank: int, contributors: int, common: float, each: int
) -> None:
    assert specific(rank, contributors, common) == each


def test_specific_directions_of_each_join_the_common_ones() -> None:
    """Of four directions the sum gives two, (9 and 8); the others come from who moved them most: 3 and 2."""
    deltas = [diagonal(9.0, 4.0, 3.0, 0.0), diagonal(0.0, 4.0, 0.0, 2.0)]
    result = merged(IsoCts(common=0.5), deltas, "base", shape=(4, 4))
    torch.testing.assert_close(result, diagonal(*[(9.0 + 8.0 + 3.0 + 2.0) / 4] * 4))


def test_with_all_directions_common_only_the_sum_counts() -> None:
    deltas = draw(3, (5, 8), 2)
    torch.testing.assert_close(
        merged(IsoCts(common=1.0, scale=2.0), deltas, "base", shape=(5, 8)),
        merged(IsoC(scale=2.0), deltas, "base", shape=(5, 8)),
    )
