"""Weight matching: put the units of one model in the order in which their weights are most like another's."""

from __future__ import annotations

import torch
from torch import Tensor

from .assignment import best_assignment
from .permutations import Axis, Groups, StateDict, by_unit, check_groups, permuted

GAIN = 1e-12
"""A sweep that gains no more than this on any group was the last."""


def match_weights(groups: Groups, a: StateDict, b: StateDict, *, sweeps: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """Return the permutations that bring b close to a, by Git Re-Basin (Ainsworth et al., arXiv 2209.04836).

    Coordinate descent: for one group at a time, with the others as they are, the permutation that maximises the sum
    over the group's axes of <W_a, W_b> is an assignment problem. Sweeps over all groups, in an order drawn from
    `seed`, end when none gains or after `sweeps`. Results are local optima: several groups and no planted solution
    may give another one for another seed. Products are in float64. Raises ConfigError if the groups do not fit the
    models, or without scipy.
    """
    random = torch.Generator().manual_seed(seed)
    units, names = check_groups(groups, a, b), list(groups)
    found = {group: torch.arange(count, device=a[groups[group][0][0]].device) for group, count in units.items()}
    of_tensor: dict[str, list[tuple[str, int]]] = {}
    for group, axes in groups.items():
        for name, axis in axes:
            of_tensor.setdefault(name, []).append((group, axis))

    def products(group: str, axis: Axis) -> Tensor:
        """Return <row i of a, row j of b> for the units along one axis, b's other axes in their present order."""
        name, along = axis
        theirs = b[name].double()
        for other, across in of_tensor[name]:
            if across != along:
                theirs = permuted(theirs, across, found[other])
        return by_unit(a[name].double(), along, units[group]) @ by_unit(theirs, along, units[group]).T

    for _ in range(sweeps):
        gained = False
        for i in torch.randperm(len(names), generator=random).tolist():
            group = names[i]
            worth = torch.stack([products(group, axis) for axis in groups[group]]).sum(0)
            better = best_assignment(worth)
            gain = worth.gather(1, better[:, None]).sum() - worth.gather(1, found[group][:, None]).sum()
            if gain > GAIN:
                found[group], gained = better, True
        if not gained:
            break
    return found
