"""Interpolation on spheres: along great circles instead of straight lines, so that lengths do not shrink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from .alone import OneModelMethod, base_of
from .average import divisor, weighted_sum
from .blocks import in_blocks
from .method import MergeMethod, Site, check_share

SHORT = 1e-8
"""SLERP does not normalise vectors shorter than this."""
SHORT_ROW = 1e-7
"""NuSLERP divides shorter vectors by this."""
STRAIGHT = 1e-16
"""NuSLERP interpolates straight where 1 - cos^2 is not above this; in float32 that is where cos rounds to 1 or -1."""
CANCELLED = 1e-6
"""NuSLERP meets in the middle where weights sum to less."""


@dataclass(frozen=True, slots=True)
class Slerp(OneModelMethod):
    """SLERP (Shoemake, SIGGRAPH 1985) between base and model: sin((1-t) a)/sin a theta0 + sin(t a)/sin a theta.

    a is the angle between their weights. t = 0 is the base, 1 the model. Where |cos a| reaches `straight`, the line
    takes the arc's place: nearly parallel vectors, and opposite ones, which no arc of their own connects. A zero
    vector counts as orthogonal. To interpolate between two models, take one of them as the base.
    """

    t: float = 0.5
    straight: float = 0.9995

    needs: ClassVar[frozenset[str]] = frozenset({"base"})

    def __post_init__(self) -> None:
        """Refuse to leave the arc."""
        check_share("t", self.t, zero=True, one=True)
        check_share("straight", self.straight, one=True)

    def merge_one(self, delta: Tensor, site: Site) -> Tensor:
        """Return the point on the arc, relative to the base."""
        base = base_of(site)
        theta = base + delta
        cosine = (_directed(base) * _directed(theta)).sum().clamp(-1, 1)
        line = cosine.abs() >= self.straight
        of_base, of_model, by = arc(self.t, cosine, line)
        return in_blocks(lambda start, end: (of_base / by * start + of_model / by * end).sub_(start), base, theta)


@dataclass(frozen=True, slots=True)
class NuSlerp(MergeMethod):
    """NuSLERP (mergekit): SLERP of two task vectors, or of two models' weights if there is no base.

    t is the second's share of the weights, one half where they cancel out. The arc is that of whole tensors, or
    without `flatten` of every vector along the last axis, with `row_wise` along the first. Vectors count as parallel
    only within float32, so nearly opposite ones of unequal length come out thousands of times as long. More than two
    are taken one after the other, each against all before it by weight, which is ours: then the order matters.
    """

    flatten: bool = True
    row_wise: bool = False

    @property
    def sparse(self) -> bool:  # type: ignore[override]
        """Return whether shapes do not matter."""
        return self.flatten

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the last point of the chain of arcs."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        if not deltas:
            return torch.zeros(())
        merged, before = deltas[0].clone(), site.weights[0]
        for delta, weight in zip(deltas[1:], site.weights[1:], strict=True):
            total = before + weight
            share = 0.5 if abs(total) < CANCELLED else weight / total
            merged, before = self._between(merged, delta, share, site), total
        return merged

    def _between(self, start: Tensor, end: Tensor, t: float, site: Site) -> Tensor:
        if self.flatten:
            of_start, of_end, by = arcs(start, end, t)
            return in_blocks(lambda a, b: (of_start * a + of_end * b) / by, start, end)
        axis = 0 if self.row_wise else -1
        first, last = (site.split(vector)[0].transpose(axis, -1) for vector in (start, end))
        of_start, of_end, by = arcs(first, last, t)
        return ((of_start * first + of_end * last) / by).transpose(axis, -1).reshape(-1)


@dataclass(frozen=True, slots=True)
class MultiSlerp(MergeMethod):
    """Multi-SLERP (mergekit): the mean direction of several task vectors, at their mean length.

    sum_i w_i u_i, scaled to the length sum_i w_i |d_i|, where u_i = d_i / (|d_i| + eps); the reference's tangent space
    comes to the same. Without a base d_i are the models' weights. Where the directions cancel out (the sum is shorter
    than eps): the weighted sum of d_i. mergekit refuses that for more than two. One alone stays what it is.
    """

    normalize: bool = True
    eps: float = 1e-8

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse to divide by nothing."""
        check_share("eps", self.eps)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean direction at the mean length."""
        by = divisor(site.weights) if self.normalize else 1.0
        straight = weighted_sum(deltas, site.weights, by)
        if len(deltas) < 2:
            return deltas[0].clone() if deltas else straight
        weights = torch.tensor(site.weights, dtype=torch.float32).div_(by).tolist()
        norms: list[Tensor] = [torch.linalg.vector_norm(delta) for delta in deltas]
        lengths: list[Tensor] = [norm + self.eps for norm in norms]

        def mean(*rows: Tensor) -> Tensor:
            total: Tensor = reduce(torch.add, [row / n * w for row, n, w in zip(rows, lengths, weights, strict=True)])
            return total

        direction = in_blocks(mean, *deltas)
        length = torch.linalg.vector_norm(direction)
        scale = torch.stack([norm * weight for norm, weight in zip(norms, weights, strict=True)]).sum()
        return torch.where(length < self.eps, straight, direction.div_(length.clamp(min=self.eps)).mul_(scale))


def arc(t: float, cosine: Tensor, line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b and c for the point (a start + b end) / c at t on the arc; on the line where so marked."""
    angle = torch.where(line, 0.0, cosine).acos()
    start, end = ((1 - t) * angle).sin(), (t * angle).sin()
    return torch.where(line, 1 - t, start), torch.where(line, t, end), torch.where(line, 1.0, angle.sin())


def arcs(start: Tensor, end: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return these factors for the vectors along the last axis, with that axis kept, by NuSLERP's rules."""
    units = [v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=SHORT_ROW) for v in (start, end)]
    cosine = (units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1)
    return arc(t, cosine, 1 - cosine.square() <= STRAIGHT)


def _directed(vector: Tensor) -> Tensor:
    """Return the vector at length 1, or as it is if it is too short to have a direction."""
    norm = torch.linalg.vector_norm(vector)
    directed: Tensor = vector / torch.where(norm > SHORT, norm, 1.0)
    return directed
