"""Singular value calibration: directions in which contributors agree are not counted several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import divisor
from .linalg import spectrum
from .matrices import is_matrix
from .method import Site
from .steps import Step

SMALLEST = 1e-12
"""A squared response that is smaller is none."""


@dataclass(frozen=True, slots=True)
class SingularValueCalibration(Step):
    """SVC (arXiv 2602.05536), a step after a merge, for matrices; other tensors stay as they are.

    Along each left singular direction u of the merged vector the responses of the merged vector and of each
    contributor, a = u^T d, are compared: s_i = <a, a_i> / |a_i|^2 says how many times contributor i is in there. The
    singular value is divided by the weighted mean of max(alpha, s_i); so a larger alpha enlarges directions less. With
    alpha = 0 a direction that goes against everybody stays as it is.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an alpha below 0."""
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha = {self.alpha}: give a number from 0")

    def apply(self, merged: Tensor, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the merged vector with its singular values calibrated, tensor by tensor."""
        split = [site.split(row) for row in (merged, *deltas)]
        parts = [
            self._calibrated(part, rows, site.weights) if is_matrix(piece) else part
            for piece, part, *rows in zip(site.pieces, *split, strict=True)
        ]
        return torch.cat([part.reshape(-1) for part in parts])

    def _calibrated(self, merged: Tensor, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        u, s, vh = spectrum(merged)
        whole = s[:, None] * vh
        shares = torch.zeros_like(s)
        for delta, weight in zip(deltas, weights, strict=True):
            own = u.mT @ delta.double()
            times = (whole * own).sum(1) / own.square().sum(1).clamp(min=SMALLEST)
            shares += weight * times.clamp(min=self.alpha)
        total = divisor(weights)
        return ((u * (total / shares.where(shares > 0, total))) @ whole).to(torch.float32)
