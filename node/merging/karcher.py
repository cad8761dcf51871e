"""The Karcher mean: the point on the sphere that is nearest to all directions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import divisor, weighted_sum
from .blocks import in_blocks
from .method import MergeMethod, Site, check_share


@dataclass(frozen=True, slots=True)
class Karcher(MergeMethod):
    """Karcher (Riemannian, Frechet) mean on the sphere (arXiv 2603.04972), at the mean length sum_i w_i |d_i|.

    From the normalised mean m of the directions u_i the point moves along the mean of their logarithms,
    T = sum_i w_i a_i / sin(a_i) (u_i - cos(a_i) m) with a_i the angle between u_i and m, to cos|T| m + sin|T| T / |T|,
    at most `max_iter` times and until |T| < `tol`. Vectors no longer than `tol` have no direction, but count in the
    length; directions closer than `tol` to m do not move it. Directions that cancel out start at the first one, so
    the order matters there. Meant for models' weights, without a base; mergekit weighs all alike.
    On the CPU iterations end early; elsewhere all are made, the last ones without effect, and nobody waits.
    """

    max_iter: int = 10
    tol: float = 1e-5

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse to iterate without an end."""
        check_share("tol", self.tol)
        if self.max_iter < 0:
            raise ConfigError(f"max_iter = {self.max_iter}: give a number of iterations, 0 or more")

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean direction at the mean length."""
        if len(deltas) < 2:
            return deltas[0].clone() if deltas else weighted_sum(deltas, site.weights)
        by = divisor(site.weights)
        weights = [weight / by for weight in site.weights]
        norms = [torch.linalg.vector_norm(delta) for delta in deltas]
        units = [delta / torch.where(norm > 0, norm, 1.0) for delta, norm in zip(deltas, norms, strict=True)]
        long = [norm > self.tol for norm in norms]
        present = [weight * there for weight, there in zip(weights, long, strict=True)]
        total = torch.stack(present).sum()
        shares = [share / torch.where(total == 0, 1.0, total) for share in present]
        scale = torch.stack([weight * norm for weight, norm in zip(weights, norms, strict=True)]).sum()
        return self._mean(units, shares, self._start(units, shares, long)).mul_(scale)

    def _start(self, units: Sequence[Tensor], shares: Sequence[Tensor], long: Sequence[Tensor]) -> Tensor:
        """Return the normalised mean, or the first direction if that is too short."""
        mean = blend(units, shares)
        length = torch.linalg.vector_norm(mean)
        there = torch.stack(list(long))
        first = there & (there.cumsum(0) == 1)
        fallback = blend(units, list(first.to(mean.dtype)))
        return torch.where(length < self.tol, fallback, mean / length.clamp(min=self.tol))

    def _mean(self, units: Sequence[Tensor], shares: Sequence[Tensor], mean: Tensor) -> Tensor:
        """Return the direction that the iterations end at."""
        moving = torch.ones((), dtype=torch.bool, device=mean.device)
        for _ in range(self.max_iter):
            cosines = [torch.dot(mean, unit).clamp(-1, 1) for unit in units]
            pulls = [share * self._pull(cosine) for share, cosine in zip(shares, cosines, strict=True)]
            tangent = _tangent(mean, units, cosines, pulls)
            length = torch.linalg.vector_norm(tangent)
            moving = moving & (length >= self.tol)
            if mean.device.type == "cpu" and not moving:
                break
            ahead = blend([mean, tangent], [length.cos(), length.sin() / length.clamp(min=self.tol)])
            norm = torch.linalg.vector_norm(ahead)
            mean = torch.where(moving, ahead / torch.where(norm > self.tol, norm, 1.0), mean)
        return mean

    def _pull(self, cosine: Tensor) -> Tensor:
        """Return a / sin a; 0 for angles too small to matter. In float32 the sine of pi is not 0."""
        angle = cosine.acos()
        near = angle < self.tol
        return torch.where(near, 0.0, angle / torch.where(near, 1.0, angle.sin()))


def _tangent(mean: Tensor, units: Sequence[Tensor], cosines: Sequence[Tensor], pulls: Sequence[Tensor]) -> Tensor:
    """Return sum_i p_i (u_i - c_i m)."""

    def add(m: Tensor, *rows: Tensor) -> Tensor:
        parts = zip(rows, cosines, pulls, strict=True)
        return reduce(torch.add, [pull * (row - cosine * m) for row, cosine, pull in parts])

    return in_blocks(add, mean, *units)


def blend(vectors: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """Return sum_i f_i v_i for factors that are 0-d tensors, which stay on their device."""

    def add(*rows: Tensor) -> Tensor:
        return reduce(torch.add, [row * factor for row, factor in zip(rows, factors, strict=True)])

    return in_blocks(add, *vectors)
