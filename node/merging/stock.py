"""Model Stock: as far from the base as the angle between the models says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from .alone import base_of
from .average import divisor, weighted_sum
from .method import MergeMethod, Site

FLOOR = 1e-6
"""Products of norms, and denominators, are not taken to be smaller (mergekit)."""
NUDGE = 1e-8
"""Added to products of norms, and to denominators (FusionBench)."""


@dataclass(frozen=True, slots=True)
class ModelStock(MergeMethod):
    """Model Stock (Jang et al., arXiv 2403.19522): t times the mean task vector, t = n c / (1 + (n - 1) c).

    c is the cosine of the angle between two task vectors: its mean over all pairs (mergekit, MergeLLM), or with the
    variant "fusion_bench" the cosine of the mean angle. `filter_wise`: each vector along the last axis has its own t.

    Models that agree are averaged, orthogonal ones come to nothing. t has no value at c = -1 / (n - 1), where models
    are as opposed as n can be: there the base stays. Close to that t is large, thousands even, of either sign.
    Weights count in the mean, not in c. One model alone stays what it is.
    """

    variant: Literal["mergekit", "fusion_bench"] = "mergekit"
    filter_wise: bool = False

    @property
    def sparse(self) -> bool:  # type: ignore[override]
        """Return whether shapes and the base do not matter."""
        return not self._on_weights

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Return the base where it is asked for."""
        return frozenset({"base"}) if self._on_weights else frozenset()

    @property
    def _on_weights(self) -> bool:
        """Return whether to compute on weights, as references do: where t gets so large that their rounding shows."""
        return self.filter_wise or self.variant == "fusion_bench"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean times t."""
        by = divisor(site.weights)
        if len(deltas) < 2 or not deltas[0].numel():
            return weighted_sum(deltas, site.weights, by)
        if not self._on_weights:
            return weighted_sum(deltas, site.weights, by).mul_(self._shares(deltas))
        base = base_of(site)
        width = (site.pieces[0].shape or (1,))[-1] if self.filter_wise else len(base)
        average = weighted_sum([base + delta for delta in deltas], site.weights, by).view(-1, width)
        t, ground = self._shares([delta.view(-1, width) for delta in deltas]), base.view(-1, width)
        return (t * average + (1 - t) * ground).view(-1).sub_(base)

    def _shares(self, rows: Sequence[Tensor]) -> Tensor:
        """Return t for each vector along the last axis, with that axis kept."""
        pairs = combinations([(row, self._length(row)) for row in rows], 2)
        cosines = torch.stack(
            [self._cosine((a * b).sum(-1, keepdim=True), of_a * of_b) for (a, of_a), (b, of_b) in pairs]
        )
        # In float64 the mean does not depend on the order of contributors: near the pole it would show.
        if self.variant == "fusion_bench":
            cosine, nudge = cosines.acos().double().mean(0).cos(), NUDGE
        else:
            cosine, nudge = cosines.double().mean(0), 0.0
        n = len(rows)
        below = 1 + (n - 1) * cosine + nudge
        pole = below.abs() < FLOOR
        return torch.where(pole, 0.0, n * cosine / torch.where(pole, 1.0, below)).float()

    def _length(self, row: Tensor) -> Tensor:
        """Return the length, or its square where the library takes the root of the product of two."""
        if self.variant == "fusion_bench":
            return row.square().sum(-1, keepdim=True)
        length: Tensor = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        return length

    def _cosine(self, product: Tensor, lengths: Tensor) -> Tensor:
        by = lengths.double().sqrt().add(NUDGE).float() if self.variant == "fusion_bench" else lengths.clamp(min=FLOOR)
        return (product / by).clamp(-1, 1)
