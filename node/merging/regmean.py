"""RegMean: the weights that come closest to what every contributor's layer answers on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import WeightedMean
from .fisher import check_counts, check_not_negative
from .method import MergeMethod, Site, check_share


@dataclass(frozen=True, slots=True)
class RegMean(MergeMethod):
    """RegMean (Jin et al., arXiv 2212.09849): W^T = (sum_i w_i G'_i)^-1 sum_i w_i G'_i W_i^T for linear layers.

    G = X^T X / n of the layer's inputs; G' keeps its diagonal and `ratio` of the rest (0.9 in the paper, 0.1 for some
    language models; at 1 few inputs overfit). The rule is affine, so it takes task vectors as it takes weights.
    Solved in float64. Every G' gets `ridge` times their mean eigenvalue on its diagonal: where inputs leave directions
    unmeasured the result is the weighted mean there, and no system is singular.

    Tensors that are no matrices or have no G take the weighted mean. `transposed` is for layers that keep their
    weights as inputs x outputs (GPT-2's).
    """

    ratio: float = 0.9
    ridge: float = 1e-9
    transposed: bool = False

    own_votes: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        """Refuse shares and ridges that mean nothing."""
        check_share("ratio", self.ratio, zero=True, one=True)
        check_not_negative("ridge", self.ridge)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the solution of least squares, or the mean. Raises ConfigError if G does not fit the layer."""
        check_counts(deltas, site)
        mean = WeightedMean().merge(deltas, site)
        if not deltas or "gram" not in site.statistics or len(site.pieces[0].shape) != 2:
            return mean
        left, right = torch.zeros(()), torch.zeros(())
        for delta, gram, weight in zip(deltas, site.statistics["gram"], site.weights, strict=True):
            layer, damped = self._turned(site.split(delta)[0]).double(), self._damped(gram)
            if len(damped) != len(layer):
                raise ConfigError(
                    f"{site.pieces[0].name}: G of {len(damped)} inputs for a layer of {len(layer)}; "
                    "transposed = true is for weights kept as inputs x outputs, and only for them"
                )
            left = left + damped * weight
            right = right + (damped @ layer).mul_(weight)
        around = self._turned(site.split(mean)[0])
        level = left.diagonal().mean()
        pull = torch.where(level > 0, self.ridge * level, 1.0)
        left.diagonal().add_(pull)
        solution, _ = torch.linalg.solve_ex(left, right.add_(around * pull))
        merged = solution.where(solution.isfinite(), around).to(torch.float32)
        return self._turned(merged).reshape(-1)

    def _damped(self, gram: Tensor) -> Tensor:
        """Return G' in float64."""
        damped = gram.double() * self.ratio
        damped.diagonal().copy_(gram.diagonal())
        return damped

    def _turned(self, layer: Tensor) -> Tensor:
        """Return the layer as inputs x outputs, or back."""
        return layer if self.transposed else layer.T
