"""DOGE: one shared change to all deltas, learnt outside of their common subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .linalg import adam, check_descent, spectrum
from .matrices import EMBEDDING, Variant, check_pattern, is_linear, mean
from .method import MergeMethod, Scope, Site, check_finite, check_share


@dataclass(frozen=True, slots=True)
class Doge(MergeMethod):
    """DOGE TA, adaptive projective gradient descent (Wei et al., arXiv 2501.01230), for weights of linear layers.

    With l_i = scale * w_i / |d_i|, each tensor by itself, the result is the sum of l_i (d_i + D) over the entries
    where |d_i| is among the top `density` of the tensor, or of all such weights with scope "global". D starts at 0 and
    goes `steps` steps of Adam at a learning `rate` that reduce sum_j sum_rows (sum_columns d_j (d_j - sum_i l_i
    (d_i + D)))^2, by gradients without their part in the common subspace: the leading r // `subspace` left singular
    vectors of [U_1 .. U_k], of which each of k contributors gives r // k (r: the smaller side).

    Weights of linear layers are matrices whose names the pattern `skip` does not find, which leaves out embedding
    tables. Others come to the weighted mean; by `fusion_bench` they stay at the base. A delta that is 0 adds nothing.
    """

    scale: float = 0.07
    density: float = 0.3
    subspace: int = 6
    steps: int = 400
    rate: float = 1e-4
    scope: Scope = "tensor"
    skip: str = EMBEDDING
    variant: Variant = "paper"

    def __post_init__(self) -> None:
        """Refuse what is no share, no descent or no pattern."""
        check_finite("scale", self.scale)
        check_share("density", self.density, one=True)
        if self.subspace < 1:
            raise ConfigError(f"subspace = {self.subspace}: give a divisor from 1")
        check_descent(self.steps, self.rate)
        check_pattern("skip", self.skip)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum of the changed deltas."""
        averaged = mean(deltas, site.weights)
        linear = [is_linear(piece, self.skip) for piece in site.pieces]
        if not deltas or not any(linear):
            return averaged if self.variant == "paper" else averaged.zero_()
        split = [site.split(delta) for delta in deltas]
        cuts = torch.stack([self._cut([part for part, use in zip(row, linear, strict=True) if use]) for row in split])
        parts = zip(site.split(averaged), linear, zip(*split, strict=True), strict=True)
        for result, use, of_contributors in parts:
            if use:
                result.copy_(self._merged(torch.stack(of_contributors), site.weights, cuts))
            elif self.variant == "fusion_bench":
                result.zero_()
        return averaged

    def _cut(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the magnitude from which on entries are kept; like other ports of TIES one more than the share."""
        magnitudes = torch.cat([part.reshape(-1) for part in parts]).abs_()
        size = len(magnitudes)
        return magnitudes.kthvalue(max(1, size - int(self.density * size))).values

    def _merged(self, stack: Tensor, weights: Sequence[float], cuts: Tensor) -> Tensor:
        norms = stack.square().sum((1, 2)).sqrt()
        shares = torch.stack([live * (self.scale * weight) for live, weight in zip(norms > 0, weights, strict=True)])
        lengths = (shares / norms.where(norms > 0, 1.0))[:, None, None]
        changed = stack + self._shared(stack, lengths)
        return (lengths * changed * (stack.abs() >= cuts[:, None, None])).sum(0)

    def _shared(self, stack: Tensor, lengths: Tensor) -> Tensor:
        """Return D."""
        rank, total = min(stack.shape[1:]), lengths.sum()
        leading = torch.cat([spectrum(delta)[0][:, : rank // len(stack)] for delta in stack], 1)
        basis = spectrum(leading)[0][:, : rank // self.subspace].to(torch.float32)
        start = torch.zeros_like(stack[0])
        gaps = (stack * (stack - (lengths * stack).sum(0))).sum(2)

        def gradient(shared: Tensor) -> Tensor:
            errors = gaps - total * (stack * shared).sum(2)
            slope = (errors[:, :, None] * stack).sum(0).mul_(-2 * total)
            return slope - basis @ (basis.mT @ slope)

        return adam(start, gradient, self.steps, self.rate)
