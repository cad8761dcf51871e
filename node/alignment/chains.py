"""Permutation groups of plain networks: one layer feeds the next, as in torch.nn.Sequential."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...protocol.errors import ConfigError
from .permutations import Axis


def chain(model: Mapping[str, Tensor]) -> dict[str, list[Axis]]:
    """Return the groups P_0, P_1, ... of a chain of linear and convolutional layers, from its state dict.

    Modules are taken in the mapping's order, which must be that of the computation. A module whose weight has several
    axes is a layer: it reads the units of the layer before along axis 1 and makes new ones along axis 0. Vectors with
    an entry per unit (biases, normalisation layers, running statistics) belong to the units that were made last. The
    last layer's outputs mean something, and stay. Raises ConfigError where layers do not follow each other like this,
    as with residual connections, depthwise and transposed convolutions: name the groups of such models yourself.
    """
    groups: list[list[Axis]] = []
    units = 0
    for module, tensors in _modules(model).items():
        weight = tensors.get("weight")
        if weight is not None and weight.ndim > 1:
            if groups:
                if not units or weight.shape[1] % units:
                    raise ConfigError(
                        f"{module!r} reads {weight.shape[1]} inputs, the layer before it has {units} outputs: "
                        "no plain chain, name its permutation groups"
                    )
                groups[-1].append((f"{module}.weight", 1))
            groups.append([(f"{module}.weight", 0)])
            units = len(weight)
        for leaf, tensor in tensors.items() if groups else ():
            if tensor.ndim == 1 and len(tensor) == units:
                groups[-1].append((f"{module}.{leaf}", 0))
    return {f"P_{i}": axes for i, axes in enumerate(groups[:-1])}


def _modules(model: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of every module by their last names, modules in the order of their first tensors."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    return modules
