import builtins
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peermerge.node.alignment import apply_permutations, chain, match_weights
from peermerge.protocol.errors import ConfigError


def network(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3), nn.Linear(12 * 4, 16), nn.Linear(16, 5)
    )
    return {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in model.state_dict().items()}


def planted(model: dict[str, Tensor], noise: float, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a noisy copy in a random order, and the permutations that undo it."""
    random, groups = torch.Generator().manual_seed(seed), chain(model)
    orders = {group: torch.randperm(len(model[axes[0][0]]), generator=random) for group, axes in groups.items()}
    moved = apply_permutations(groups, orders, model)
    noisy = {
        name: t + noise * torch.randn(t.shape, generator=random) if t.is_floating_point() else t
        for name, t in moved.items()
    }
    return noisy, {group: order.argsort() for group, order in orders.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_is_found_whatever_the_order_of_the_groups(seed: int) -> None:
    a = network(0)
    b, inverse = planted(a, 0.05, 7)
    found = match_weights(chain(a), a, b, seed=seed)
    assert found.keys() == inverse.keys()
    assert all(torch.equal(found[group], inverse[group]) for group in found)
    aligned = apply_permutations(chain(a), found, b)
    assert max(float((aligned[name] - a[name]).abs().max()) for name in a) < 0.5


def test_a_model_is_aligned_with_itself() -> None:
    a = network(1)
    found = match_weights(chain(a), a, a)
    assert all(torch.equal(order, torch.arange(len(order))) for order in found.values())


def test_models_with_nothing_in_common_come_no_further_apart_and_seeds_decide() -> None:
    a, b = network(2), network(3)
    groups = chain(a)

    def distance(other: dict[str, Tensor]) -> float:
        return sum(float((a[name] - other[name]).double().square().sum()) for name in a)

    found = match_weights(groups, a, b, seed=5)
    assert distance(apply_permutations(groups, found, b)) < distance(b)
    again = match_weights(groups, a, b, seed=5)
    assert all(torch.equal(found[group], again[group]) for group in found)


def test_no_sweep_leaves_everything_in_its_place() -> None:
    a, b = network(2), network(3)
    found = match_weights(chain(a), a, b, sweeps=0)
    assert all(torch.equal(order, torch.arange(len(order))) for order in found.values())


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"P": [("absent", 0)]}, "no axis 0 of a tensor 'absent'"),
        ({"P": [("4.bias", 1)]}, "no axis 1 of a tensor '4.bias'"),
        ({"P": [("4.bias", 0), ("3.bias", 0)]}, "axis 0 of '3.bias' holds 16, not 5, units"),
        ({"P": []}, "'P' names no axis"),
    ],
)
def test_groups_that_do_not_fit_the_models_are_refused(groups: dict[str, list[tuple[str, int]]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        match_weights(groups, network(0), network(1))


def test_models_of_other_widths_are_refused() -> None:
    a = {"w": torch.ones(4, 2)}
    with pytest.raises(ConfigError, match="holds 6, not 4, units"):
        match_weights({"P": [("w", 0)]}, a, {"w": torch.ones(6, 2)})


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_scipy(name: str, *rest: Any) -> ModuleType:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ConfigError, match=r"pip install 'peermerge\[alignment\]'"):
        match_weights(chain(network(0)), network(0), network(1))
