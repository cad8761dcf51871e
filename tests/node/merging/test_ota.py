import math
from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.ota import Ota
from peermerge.protocol.errors import ConfigError


def at(*moments: list[float], weights: tuple[float, ...] | None = None, shape: tuple[int, ...] | None = None) -> Site:
    """Return a place where contributors' optimizers hold these second moments."""
    shape = shape if shape is not None else (len(moments[0]),)
    return Site(
        weights=weights or (1.0,) * len(moments),
        pieces=(Piece("layer.weight", shape),),
        statistics={"second_moment": tuple(torch.tensor(values) for values in moments)},
    )


def deltas(*rows: list[float]) -> list[Tensor]:
    return [torch.tensor(row) for row in rows]


def test_entries_weigh_by_the_root_of_the_second_moment() -> None:
    merged = Ota(epsilon=0.0).merge(deltas([4.0], [8.0]), at([9.0], [1.0]))
    torch.testing.assert_close(merged, torch.tensor([5.0]))


def test_a_power_of_one_weighs_by_the_moment_itself() -> None:
    merged = Ota(power=1.0, epsilon=0.0).merge(deltas([4.0], [8.0]), at([3.0], [1.0]))
    torch.testing.assert_close(merged, torch.tensor([5.0]))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e10])
def test_a_relative_epsilon_does_not_drown_the_moments_of_a_language_model(scale: float) -> None:
    merged = Ota(power=1.0).merge(deltas([4.0], [8.0]), at([3 * scale], [scale]))
    torch.testing.assert_close(merged, torch.tensor([5.0]), atol=1e-4, rtol=0)


def test_an_absolute_epsilon_drowns_them() -> None:
    merged = Ota(power=1.0, epsilon=1e-8, variant="official").merge(deltas([4.0], [8.0]), at([3e-12], [1e-12]))
    torch.testing.assert_close(merged, torch.tensor([6.0]), atol=1e-2, rtol=0)


def test_normalised_moments_make_optimizers_of_another_scale_equals() -> None:
    rows = deltas([4.0, 4.0], [8.0, 8.0])
    merged = Ota(power=1.0, epsilon=0.0, normalise="global").merge(rows, at([3e6, 1e6], [1.0, 3.0]))
    torch.testing.assert_close(merged, torch.tensor([5.0, 7.0]))


def test_grafting_masks_what_lies_below_the_threshold() -> None:
    method = Ota(power=1.0, epsilon=0.0, threshold=4.0)
    merged = method.merge(deltas([2.0, 1.0, 1.0], [4.0, 4.0, 1.0]), at([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]))
    torch.testing.assert_close(merged, torch.tensor([3.0, 4.0, 0.0]))


def test_grafting_keeps_each_contributors_densest_entries() -> None:
    method = Ota(power=1.0, epsilon=0.0, density=0.5)
    merged = method.merge(deltas([2.0, 1.0], [1.0, 2.0]), at([1.0, 1.0], [1.0, 16.0]))
    torch.testing.assert_close(merged, torch.tensor([2.0, 2.0]))


def test_what_everybody_masks_falls_back_to_the_mean_of_all_on_demand() -> None:
    method = Ota(threshold=1000.0, fallback="mean")
    merged = method.merge(deltas([2.0], [4.0]), at([1.0], [9.0], weights=(1.0, 3.0)))
    torch.testing.assert_close(merged, torch.tensor([3.5]))


def test_the_official_variant_takes_small_weights_for_masked() -> None:
    rows, here = deltas([2.0], [4.0]), at([3e-12], [1e-12])
    options: dict[str, Any] = {"power": 1.0, "epsilon": 1e-8, "threshold": 0.0, "variant": "official"}
    assert Ota(**options).merge(rows, here) == 0.0
    assert Ota(**options, fallback="mean").merge(rows, here) == 3.0
    assert Ota(power=1.0, threshold=0.0).merge(rows, here) == pytest.approx(2.5, abs=1e-4)


def test_without_moments_it_is_the_weighted_mean() -> None:
    here = Site(weights=(1.0, 3.0), pieces=(Piece("running_mean", (1,)),))
    assert Ota().merge(deltas([4.0], [8.0]), here) == 7.0


def test_optimizers_that_saw_nothing_leave_a_mean() -> None:
    assert Ota().merge(deltas([4.0], [8.0]), at([0.0], [0.0])) == 6.0


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("normalise", ["none", "global"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0)])
def test_tiny_and_empty_tensors_merge(shape: tuple[int, ...], normalise: Any, variant: Any) -> None:
    size = math.prod(shape)
    method = Ota(normalise=normalise, variant=variant, density=0.5)
    merged = method.merge([torch.full((size,), 2.0)] * 2, at([1.0] * size, [3.0] * size, shape=shape))
    torch.testing.assert_close(merged, torch.full((size,), 2.0))


def test_relative_to_oneself_own_moments_hold_against_neighbours_even_when_grafting() -> None:
    method, rows = Ota(power=1.0, epsilon=0.0, threshold=0.5), deltas([8.0])
    torch.testing.assert_close(method.correct(rows, at([3.0], [1.0], weights=(0.5, 0.5))), torch.tensor([2.0]))
    assert method.correct(rows, at([3.0], [0.001], weights=(0.5, 0.5))) == 0.0


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"power": 0.0}, "power = 0.0"),
        ({"power": math.nan}, "power = nan"),
        ({"power": 3.0}, "power = 3.0"),
        ({"epsilon": -1e-8}, "epsilon = -1e-08"),
        ({"threshold": -1.0}, "threshold = -1.0"),
        ({"density": 0.0}, "density = 0.0"),
        ({"density": 0.5, "threshold": 1.0}, "give one"),
        ({"normalise": "tensor"}, "normalise = 'tensor'"),
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method("ota", parameters)
