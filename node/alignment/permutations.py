"""Which axes of which tensors name the same units, and what it means to put these units in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...protocol.errors import ConfigError

Axis = tuple[str, int]
"""A tensor's name and one of its axes."""
Groups = Mapping[str, Sequence[Axis]]
"""Permutation groups: for each, the axes that name its units. The first one's length is the number of units.

A longer axis holds the same number of entries for each unit, one unit after the other, as a linear layer's inputs do
after a convolution's outputs were flattened.
"""
StateDict = Mapping[str, Tensor]
Permutations = Mapping[str, Tensor]
"""For each group the old place of every unit: unit i of the permuted model is unit permutation[i] of the old one."""


def apply_permutations(groups: Groups, permutations: Permutations, model: StateDict) -> dict[str, Tensor]:
    """Return the model with every group's units in their new order; groups without a permutation stay as they are.

    The model computes what it computed before, if the groups say the truth of it. Tensors without a moved axis are
    handed through, not copied.
    """
    moved = dict(model)
    for group, permutation in permutations.items():
        for name, axis in groups[group]:
            moved[name] = permuted(moved[name], axis, permutation)
    return moved


def permuted(tensor: Tensor, axis: int, permutation: Tensor) -> Tensor:
    """Return the tensor with the units along one axis in a new order."""
    front = tensor.movedim(axis, 0)
    return by_unit(tensor, axis, len(permutation))[permutation].reshape(front.shape).movedim(0, axis)


def by_unit(tensor: Tensor, axis: int, units: int) -> Tensor:
    """Return a matrix with one row per unit: all that the tensor holds of it."""
    return tensor.movedim(axis, 0).reshape(units, -1)


def check_groups(groups: Groups, *models: StateDict) -> dict[str, int]:
    """Return the number of units in each group; raise ConfigError that names what does not fit."""
    units: dict[str, int] = {}
    for group, axes in groups.items():
        if not axes:
            raise ConfigError(f"group {group!r} names no axis of any tensor")
        for name, axis in axes:
            for model in models:
                if name not in model or not -model[name].ndim <= axis < model[name].ndim:
                    raise ConfigError(f"group {group!r}: no axis {axis} of a tensor {name!r} in one of the models")
                length = model[name].shape[axis]
                count = units.setdefault(group, length)
                if length != count and (not count or length % count):
                    raise ConfigError(f"group {group!r}: axis {axis} of {name!r} holds {length}, not {count}, units")
    return units
