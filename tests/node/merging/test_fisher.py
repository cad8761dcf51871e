import math
from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.fisher import Fisher, even
from peermerge.protocol.errors import ConfigError


def at(
    *information: list[float], weights: tuple[float, ...] | None = None, shape: tuple[int, ...] | None = None
) -> Site:
    """Return a place where contributors measured this information."""
    shape = shape if shape is not None else (len(information[0]),)
    return Site(
        weights=weights or (1.0,) * len(information),
        pieces=(Piece("layer.weight", shape),),
        statistics={"fisher": tuple(torch.tensor(values) for values in information)},
    )


def deltas(*rows: list[float]) -> list[Tensor]:
    return [torch.tensor(row) for row in rows]


def test_every_entry_is_the_mean_weighted_by_information() -> None:
    here = at([3.0, 0.0], [1.0, 4.0])
    merged = Fisher(normalize=False, floor=0.0).merge(deltas([4.0, 4.0], [8.0, 8.0]), here)
    torch.testing.assert_close(merged, torch.tensor([5.0, 8.0]))


def test_weights_multiply_information() -> None:
    here = at([3.0], [1.0], weights=(1.0, 3.0))
    assert Fisher(normalize=False, floor=0.0).merge(deltas([4.0], [8.0]), here) == 6.0


def test_information_of_another_scale_counts_the_same_once_normalized() -> None:
    rows = deltas([1.0, 2.0, 3.0], [3.0, 2.0, -1.0])
    straight = Fisher().merge(rows, at([1.0, 2.0, 3.0], [2.0, 1.0, 5.0]))
    scaled = Fisher().merge(rows, at([1e-9, 2e-9, 3e-9], [2e6, 1e6, 5e6]))
    torch.testing.assert_close(straight, scaled)


def test_a_floor_lets_those_take_part_who_know_nothing() -> None:
    rows, here = deltas([4.0], [8.0]), at([0.0], [1.0])
    assert Fisher(normalize=False, floor=0.0).merge(rows, here) == 8.0
    assert Fisher(normalize=False, floor=1.0).merge(rows, here) == pytest.approx(20 / 3)


def test_entries_that_nobody_knows_of_stay_without_a_floor_and_are_averaged_with_one() -> None:
    rows, here = deltas([4.0], [8.0]), at([0.0], [0.0])
    assert Fisher(floor=0.0).merge(rows, here) == 0.0
    assert Fisher(floor=1e-6).merge(rows, here) == 6.0


def test_without_information_it_is_the_weighted_mean() -> None:
    here = Site(weights=(1.0, 3.0), pieces=(Piece("running_mean", (1,)),))
    assert Fisher().merge(deltas([4.0], [8.0]), here) == 7.0


def test_even_weights_divide_by_the_norm_over_the_model() -> None:
    assert even([1.0, 1.0], [1.0, 3.0], floor=0.0) == pytest.approx([0.75, 0.25])
    assert all(math.isfinite(weight) for weight in even([1.0, 1.0], [0.0, 0.0]))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0)])
def test_tiny_and_empty_tensors_merge(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    merged = Fisher().merge([torch.full((size,), 2.0)] * 2, at([1.0] * size, [3.0] * size, shape=shape))
    torch.testing.assert_close(merged, torch.full((size,), 2.0))


def test_relative_to_oneself_own_information_holds_against_neighbours() -> None:
    method, rows = Fisher(normalize=False, floor=0.0), deltas([8.0])
    assert method.correct(rows, at([3.0], [1.0], weights=(0.5, 0.5))) == 2.0
    assert method.correct(rows, at([0.0], [1.0], weights=(0.5, 0.5))) == 4.0


@pytest.mark.parametrize(("floor", "says"), [(-1.0, "floor = -1.0"), (math.nan, "floor = nan")])
def test_floors_below_zero_are_refused(floor: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method("fisher", {"floor": floor})


def test_unknown_parameters_are_refused() -> None:
    parameters: dict[str, Any] = {"normalise": True}
    with pytest.raises(ConfigError, match="did you mean 'normalize'"):
        make_method("fisher", parameters)
