"""EMR: one vector for all tasks, and for each task a mask and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .average import divisor, weighted_sum
from .blocks import in_blocks
from .method import MergeMethod, Scope, Site, check_finite
from .sums import relative


@dataclass(frozen=True, slots=True)
class Emr(MergeMethod):
    """EMR-Merging (Huang et al., arXiv 2405.17461): elect a unified vector, mask and rescale it for every task.

    The paper keeps one vector for all, and one bit an entry and one number for each task: see `unify`, `agreement`,
    `rescaler` and `apply`. As a merge, whose result serves everyone alike, this is the unified vector without masks,
    times the weighted mean of the rescalers, and `scale`. Rescalers are those of the whole model.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a scale that is no number."""
        check_finite("scale", self.scale)

    @property
    def scope(self) -> Scope:
        """Return "global": rescalers compare whole models."""
        return "global"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the unified vector, rescaled."""
        unified = unify(deltas, site.weights)
        if not deltas:
            return unified
        total = divisor(site.weights)
        rescalers = [rescaler(delta, unified, site) for delta in deltas]
        shared = sum(r * (weight / total) for r, weight in zip(rescalers, site.weights, strict=True))
        return unified.mul_(shared).mul_(self.scale)


def unify(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the unified vector: of every entry the sign of the weighted sum, and the largest magnitude of that sign.

    Zero sums elect minus.
    """
    if len(deltas) != len(weights):
        raise ValueError(f"{len(deltas)} deltas, {len(weights)} weights")

    parts = relative(weights)

    def unified(*rows: Tensor) -> Tensor:
        sign = torch.where(weighted_sum(rows, parts) > 0, 1.0, -1.0)
        largest = torch.zeros_like(sign)
        for row in rows:
            largest = torch.maximum(largest, row * sign)
        return largest * sign

    return in_blocks(unified, *deltas) if deltas else torch.zeros(())


def agreement(delta: Tensor, unified: Tensor) -> Tensor:
    """Return a task's mask: where its delta has the sign of the unified vector."""
    return delta * unified.sign() > 0


def rescaler(delta: Tensor, unified: Tensor, site: Site) -> Tensor:
    """Return a task's scale: of its delta to its masked unified vector, both as sums over tensors of mean magnitudes.

    0 where nothing agrees, which leaves the base.
    """
    masked = in_blocks(lambda d, u: u * agreement(d, u), delta, unified)
    own, shared = _magnitude(delta, site), _magnitude(masked, site)
    return torch.where(shared != 0, own / shared.where(shared != 0, 1.0), 0.0).float()


def apply(delta: Tensor, unified: Tensor, site: Site) -> Tensor:
    """Return a task's own vector: the unified one, masked and rescaled."""
    return unified * agreement(delta, unified) * rescaler(delta, unified, site)


def _magnitude(flat: Tensor, site: Site) -> Tensor:
    """Return the sum over tensors of their mean magnitudes, in float64: the order of summing leaves no trace."""
    means = [piece.abs().mean(dtype=torch.float64) for piece in site.split(flat) if piece.numel()]
    return torch.stack(means).sum() if means else flat.new_zeros((), dtype=torch.float64)
