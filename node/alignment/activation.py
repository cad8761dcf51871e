"""Match units by what they do: models that see the same inputs have units whose activations go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .assignment import best_assignment


@dataclass(frozen=True, slots=True)
class Matching:
    """How the units of several models, one model after the other, become the merged units, and how they come back.

    merge: (merged, all), a merged unit is the mean of its units. unmerge: (all, merged), a unit reads its merged one.
    """

    merge: Tensor
    unmerge: Tensor

    @classmethod
    def of(cls, unmerge: Tensor) -> Matching:
        """Return the matching in which column c of `unmerge` names the units of merged unit c by ones."""
        return cls((unmerge / unmerge.sum(0)).T.contiguous(), unmerge)


def correlation(covariance: Tensor) -> Tensor:
    """Return correlations in float64; units that never vary go with nobody."""
    covariance = covariance.double()
    deviations = covariance.diagonal().clamp(min=0).sqrt()
    scale = deviations[:, None] * deviations[None, :]
    return torch.where(scale > 0, covariance / scale.where(scale > 0, 1.0), 0.0)


def match_units(covariance: Tensor, models: int = 2) -> Matching:
    """Match each unit of the first model with one of every other, by correlation (Li et al., arXiv 1511.07543).

    covariance: of the activations of all models on the same inputs, the units of one model after the other. The
    pairs' correlations have the largest possible sum. Merged unit i is where the first model's unit i was. Raises
    ConfigError if the units are not as many in each model, or without scipy.
    """
    units = _units(covariance, models)
    similar = correlation(covariance)
    unmerge = covariance.new_zeros(models * units, units)
    for model in range(models):
        theirs = slice(model * units, (model + 1) * units)
        partners = best_assignment(similar[:units, theirs]) if model else torch.arange(units)
        unmerge[model * units + partners, torch.arange(units)] = 1
    return Matching.of(unmerge)


def zip_units(
    covariance: Tensor, models: int = 2, *, r: float | None = None, a: float = 0.3, b: float = 0.125
) -> Matching:
    """Zip units greedily, within a model too (ZipIt!, Stoica et al., arXiv 2305.03053).

    The two most correlated units become one, until the share `r` of all units is gone (1 - 1 / models if not given).
    What a merged unit is worth to another is the smaller of its two units' correlations times `a`, so that chains
    are rare. As in the authors' code a merged unit counts for the model of its first unit, and a model of whose units
    more than `b` of its share of the removals merged among each other, at least one pair, merges only with other
    models from then on. Parameters and result else as in match_units; on the CPU, cubic in the number of units.
    """
    units, total = _units(covariance, models), len(covariance)
    r = 1 - 1 / models if r is None else r
    if not 0 <= r < 1 or not 0 < a <= 1 or b < 0:
        raise ConfigError(f"r = {r}, a = {a}, b = {b}: give 0 <= r < 1, 0 < a <= 1 and b >= 0")
    removed = total - int(total * (1 - r) + 1e-4)
    similar = correlation(covariance).cpu().fill_diagonal_(-torch.inf)
    model, alive = torch.arange(total) // units, torch.ones(total, dtype=torch.bool)
    budgets = [int(removed // models * b + 1e-4)] * models
    unmerge = torch.eye(total)
    for _ in range(removed):
        first, second = sorted(divmod(int(similar.argmax()), total))
        if similar[first, second] == -torch.inf:
            raise ConfigError(f"r = {r}: no two units are left to merge, remove fewer or raise b")
        unmerge[:, first] += unmerge[:, second]
        alive[second] = False
        worth = torch.minimum(similar[first], similar[second]) * a
        similar[first], similar[:, first] = worth, worth
        similar[second], similar[:, second] = -torch.inf, -torch.inf
        if model[first] == model[second]:
            origin = int(model[first])
            budgets[origin] -= 1
            if budgets[origin] <= 0:
                members = model == origin
                similar[members[:, None] & members] = -torch.inf
    return Matching.of(unmerge[:, alive].to(covariance))


def _units(covariance: Tensor, models: int) -> int:
    """Return the number of units per model."""
    total = len(covariance)
    if covariance.shape != (total, total) or models < 1 or total % models:
        raise ConfigError(f"a covariance of shape {tuple(covariance.shape)} is not that of {models} models' units")
    return total // models
