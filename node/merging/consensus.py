"""TALL masks, and the consensus of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import weighted_sum
from .blocks import in_blocks
from .method import MergeMethod, Site, check_finite, check_share
from .sums import relative
from .ties import Ties


@dataclass(frozen=True, slots=True)
class Consensus(MergeMethod):
    """Consensus merging by TALL masks (Wang et al., arXiv 2405.07813): scale * [sum_i m_i >= agreeing] * tau.

    tau is the sum of the deltas, or what TIES at `density` merges of them; m_i is where contributor i matters to it:
    |d_i| > threshold * |d_i - tau|. Two who agree leave out what is selfish (1) or catastrophic (0). The paper
    searches the threshold of each task among 0.2, 0.3 ... 0.6 on validation data: here all share one, and so they
    share the scale.

    Weights scale the result; masks are made with them as parts of the largest. Relative to oneself own has no
    mask: a lone neighbour needs no other to agree.
    """

    threshold: float = 0.4
    agreeing: int = 2
    scale: float = 1.0
    merged: Literal["sum", "ties"] = "sum"
    density: float = 0.2

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse thresholds that mean nothing."""
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ConfigError(f"threshold = {self.threshold}: give a number from 0 on")
        if self.agreeing < 0:
            raise ConfigError(f"agreeing = {self.agreeing}: give a number of contributors from 0 on")
        check_finite("scale", self.scale)
        check_share("density", self.density, one=True)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return what enough contributors agree on."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        if not deltas:
            return torch.zeros(())
        weights = relative(site.weights)
        gain = self.scale * max(map(abs, site.weights))
        elected = [Ties(self.density).merge(deltas, replace(site, weights=tuple(weights)))] * (self.merged == "ties")

        def agreed(*rows: Tensor) -> Tensor:
            changes = rows[: len(deltas)]
            tau = rows[-1] if elected else weighted_sum(changes, weights)
            agree = torch.zeros_like(tau)
            for change in changes:
                agree.add_(tall_mask(change, tau, self.threshold))
            return tau * (agree >= self.agreeing) * gain

        return in_blocks(agreed, *deltas, *elected)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return what enough neighbours agree on, by mixing weights; a scale above 1 steps beyond the mean."""
        lenient = replace(self, agreeing=min(self.agreeing, len(deltas)))
        return lenient.merge(deltas, site.only(range(1, len(site.weights))))


def tall_mask(tuned: Tensor, merged: Tensor, threshold: float, base: Tensor | float = 0.0) -> Tensor:
    """Return the TALL mask of one contributor: where it moved further from the base than the merge is from it.

    That is |base - tuned| > threshold * |merged - tuned|, of weights, or of deltas, whose base is 0.
    """
    return (base - tuned).abs() > (merged - tuned).abs() * threshold
