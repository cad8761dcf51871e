from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from peermerge.node.alignment import apply_permutations, chain
from peermerge.protocol.errors import ConfigError


def shuffled(groups: dict[str, list[tuple[str, int]]], model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Return the model's state with the units of all groups in a random order."""
    state, random = model.state_dict(), torch.Generator().manual_seed(seed)
    orders = {
        group: torch.randperm(state[axes[0][0]].shape[axes[0][1]], generator=random) for group, axes in groups.items()
    }
    return apply_permutations(groups, orders, state)


def mlp(*sizes: int) -> nn.Sequential:
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def cnn() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
        nn.LayerNorm(10),
        nn.Linear(10, 5),
    )
    torch.manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return model.double().eval()


def test_the_groups_of_a_chain_join_outputs_with_the_inputs_that_read_them() -> None:
    assert chain(mlp(4, 5, 5, 2).state_dict()) == {
        "P_0": [("0.weight", 0), ("0.bias", 0), ("2.weight", 1)],
        "P_1": [("2.weight", 0), ("2.bias", 0), ("4.weight", 1)],
    }


def test_normalisation_layers_belong_to_the_units_they_normalise() -> None:
    groups = chain(cnn().state_dict())
    norm = [(f"1.{leaf}", 0) for leaf in ("weight", "bias", "running_mean", "running_var")]
    assert groups["P_0"] == [("0.weight", 0), *norm, ("3.weight", 1)]
    assert list(groups) == ["P_0", "P_1", "P_2"]


def test_a_single_layer_has_nothing_to_permute() -> None:
    assert chain(mlp(3, 4).state_dict()) == {}
    assert chain({}) == {}


def test_a_permuted_network_computes_what_it_computed_before() -> None:
    model = cnn()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(images)
        state = shuffled(chain(model.state_dict()), model)
        assert not torch.equal(state["0.weight"], model.state_dict()["0.weight"])
        model.load_state_dict(state)
        torch.testing.assert_close(model(images), before)


def test_unit_i_is_the_old_unit_that_the_permutation_names() -> None:
    state = {"a": torch.tensor([[1.0], [2.0], [3.0]]), "b": torch.tensor([[1.0, 1.5, 2.0, 2.5, 3.0, 3.5]])}
    moved = apply_permutations({"P": [("a", 0), ("b", 1)]}, {"P": torch.tensor([2, 0, 1])}, state)
    assert moved["a"].tolist() == [[3.0], [1.0], [2.0]]
    assert moved["b"].tolist() == [[3.0, 3.5, 1.0, 1.5, 2.0, 2.5]]
    assert state["a"].tolist() == [[1.0], [2.0], [3.0]]


def test_a_tensor_may_have_units_of_one_group_on_two_axes() -> None:
    square = torch.arange(9.0).view(3, 3)
    order = torch.tensor([1, 2, 0])
    moved = apply_permutations({"P": [("w", 0), ("w", 1)]}, {"P": order}, {"w": square})
    assert torch.equal(moved["w"], square[order][:, order])


def test_layers_that_do_not_follow_each_other_are_no_chain() -> None:
    depthwise = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1))
    with pytest.raises(ConfigError, match="'1' reads 1 inputs, the layer before it has 6"):
        chain(depthwise.state_dict())
