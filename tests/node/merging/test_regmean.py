import math
from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.regmean import RegMean
from peermerge.protocol.errors import ConfigError


def at(*grams: Tensor, shape: tuple[int, ...], weights: tuple[float, ...] | None = None) -> Site:
    """Return a place where contributors measured these products of a layer's inputs."""
    chosen = weights or (1.0,) * len(grams)
    return Site(weights=chosen, pieces=(Piece("layer.weight", shape),), statistics={"gram": grams})


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gram(inputs: Tensor) -> Tensor:
    return inputs.T @ inputs / len(inputs)


def test_inputs_of_one_contributor_decide_where_only_it_has_any() -> None:
    first, second = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))
    merged = RegMean().merge([torch.tensor([4.0, 4.0]), torch.tensor([8.0, 8.0])], at(first, second, shape=(1, 2)))
    torch.testing.assert_close(merged, torch.tensor([4.0, 8.0]))


def test_the_result_answers_as_all_contributors_together_do_best() -> None:
    inputs = [random(40, 3, seed=i) * torch.tensor([1.0, i + 1.0, 5.0]) for i in range(3)]
    layers = [random(2, 3, seed=10 + i) for i in range(3)]
    answers = torch.cat([x @ layer.T for x, layer in zip(inputs, layers, strict=True)])
    best = torch.linalg.lstsq(torch.cat(inputs), answers).solution.T
    here = at(*map(gram, inputs), shape=(2, 3))
    merged = RegMean(ratio=1.0).merge([layer.reshape(-1) for layer in layers], here)
    torch.testing.assert_close(merged.view(2, 3), best, atol=1e-5, rtol=1e-4)


def test_a_ratio_of_zero_weighs_inputs_one_by_one() -> None:
    first, second = torch.tensor([[3.0, 2.0], [2.0, 3.0]]), torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    merged = RegMean(ratio=0.0).merge(
        [torch.tensor([4.0, 4.0]), torch.tensor([8.0, 8.0])], at(first, second, shape=(1, 2))
    )
    torch.testing.assert_close(merged, torch.tensor([5.0, 5.0]))


def test_weights_multiply_what_was_measured() -> None:
    one = torch.ones(1, 1)
    merged = RegMean().merge([torch.tensor([4.0]), torch.tensor([8.0])], at(one, one, shape=(1, 1), weights=(1.0, 3.0)))
    torch.testing.assert_close(merged, torch.tensor([7.0]))


def test_directions_that_nobody_measured_take_the_weighted_mean() -> None:
    inputs = torch.tensor([[1.0, 1.0]])
    merged = RegMean(ratio=1.0).merge(
        [torch.tensor([4.0, 0.0]), torch.tensor([8.0, 0.0])], at(gram(inputs), gram(inputs), shape=(1, 2))
    )
    torch.testing.assert_close(merged, torch.tensor([6.0, 0.0]))


@pytest.mark.parametrize("ridge", [0.0, 1e-9])
def test_layers_that_saw_no_inputs_are_averaged(ridge: float) -> None:
    nothing = torch.zeros(2, 2)
    merged = RegMean(ridge=ridge).merge(
        [torch.tensor([4.0, 0.0]), torch.tensor([8.0, 2.0])], at(nothing, nothing, shape=(1, 2))
    )
    torch.testing.assert_close(merged, torch.tensor([6.0, 1.0]))


def test_a_singular_system_without_a_ridge_is_averaged_not_infinite() -> None:
    alone = torch.diag(torch.tensor([1.0, 0.0]))
    merged = RegMean(ridge=0.0).merge(
        [torch.tensor([4.0, 0.0]), torch.tensor([8.0, 2.0])], at(alone, alone, shape=(1, 2))
    )
    assert bool(merged.isfinite().all())
    assert merged[1] == 1.0


def test_transposed_layers_merge_as_their_transposes() -> None:
    grams = [gram(random(9, 3, seed=i)) for i in range(2)]
    layers = [random(2, 3, seed=10 + i) for i in range(2)]
    straight = RegMean().merge([layer.reshape(-1) for layer in layers], at(*grams, shape=(2, 3)))
    turned = RegMean(transposed=True).merge([layer.T.reshape(-1) for layer in layers], at(*grams, shape=(3, 2)))
    torch.testing.assert_close(straight.view(2, 3), turned.view(3, 2).T)


def test_products_of_another_layer_are_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match="transposed = true is for"):
        RegMean().merge([torch.zeros(6)], at(torch.eye(2), shape=(2, 3)))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 2), (2, 0), (1, 1), (1, 2, 3)])
def test_tiny_and_empty_tensors_and_those_that_are_no_matrices_merge(shape: tuple[int, ...]) -> None:
    size, inputs = math.prod(shape), shape[-1] if shape else 1
    here = at(torch.eye(inputs), 3 * torch.eye(inputs), shape=shape)
    merged = RegMean().merge([torch.full((size,), 2.0)] * 2, here)
    torch.testing.assert_close(merged, torch.full((size,), 2.0))


def test_without_products_it_is_the_weighted_mean() -> None:
    here = Site(weights=(1.0, 3.0), pieces=(Piece("embedding.weight", (1, 1)),))
    assert RegMean().merge([torch.tensor([4.0]), torch.tensor([8.0])], here) == 7.0


def test_relative_to_oneself_own_inputs_hold_against_neighbours() -> None:
    here = at(3 * torch.ones(1, 1), torch.ones(1, 1), shape=(1, 1), weights=(0.5, 0.5))
    torch.testing.assert_close(RegMean().correct([torch.tensor([8.0])], here), torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [({"ratio": 1.1}, "ratio = 1.1"), ({"ratio": -0.1}, "ratio = -0.1"), ({"ridge": -1.0}, "ridge = -1.0")],
)
def test_impossible_parameters_are_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method("regmean", parameters)
