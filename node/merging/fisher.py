"""Fisher merging, and the mean weighted entry by entry that it shares with OTA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import WeightedMean
from .blocks import in_blocks
from .method import MergeMethod, Site


@dataclass(frozen=True, slots=True)
class Fisher(MergeMethod):
    """Fisher merging (Matena and Raffel, arXiv 2111.09832): sum_i w_i F_i d_i / sum_i w_i F_i, entry by entry.

    F is the diagonal of each contributor's Fisher information, here with `floor` added. Its scale depends on the data
    and on the model's size, so with `normalize` every F is divided by its root mean square in this tensor. The paper
    divides by the norm over the whole model: that is `normalize = false` with weights from `even`, or with
    information that was divided before it came. Without F for a tensor: the weighted mean. Nobody's F above 0 and
    no floor: the entry stays.
    """

    normalize: bool = True
    floor: float = 1e-6

    own_votes: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})

    def __post_init__(self) -> None:
        """Refuse a floor below zero."""
        check_not_negative("floor", self.floor)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean weighted by information."""
        if not deltas or "fisher" not in site.statistics:
            return WeightedMean().merge(deltas, site)
        information = [measured.reshape(-1) for measured in site.statistics["fisher"]]
        scales = [rms(values) if self.normalize else torch.ones_like(values[:1]) for values in information]

        def share(i: int, values: Tensor) -> Tensor:
            return (values / scales[i]).add_(self.floor).mul_(site.weights[i])

        check_counts(deltas, site)
        count = len(deltas)

        def mean(*rows: Tensor) -> Tensor:
            return shared_mean(rows[:count], [share(i, values) for i, values in enumerate(rows[count:])])

        return in_blocks(mean, *deltas, *information)


def even(weights: Sequence[float], norms: Sequence[float], floor: float = 1e-6) -> list[float]:
    """Return weights that make up for the norm of each contributor's information over its whole model."""
    shares = [weight / (norm + floor) for weight, norm in zip(weights, norms, strict=True)]
    total = sum(1 / (norm + floor) for norm in norms)
    return [share / total for share in shares]


def shared_mean(rows: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """Return sum_i s_i d_i / sum_i s_i entry by entry; 0 where the shares sum to 0."""
    above, below = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
    for row, share in zip(rows, shares, strict=True):
        above.addcmul_(row, share)
        below.add_(share)
    return above.div_(below.where(below != 0, 1.0))


def rms(values: Tensor) -> Tensor:
    """Return the root mean square as one entry, or 1 where it is 0."""
    found: Tensor = torch.linalg.vector_norm(values, keepdim=True) / math.sqrt(max(1, values.numel()))
    return found.where(found > 0, 1.0)


def check_counts(deltas: Sequence[Tensor], site: Site) -> None:
    """Raise ValueError unless every contributor has a weight."""
    if len(deltas) != len(site.weights):
        raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")


def check_not_negative(key: str, value: float) -> None:
    """Raise ConfigError unless the value is a number from 0 up."""
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{key} = {value}: give a number of 0 or more")
