"""SCE: select what varies, calculate coefficients from it, erase the minority's signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .average import SMALLEST
from .blocks import Span
from .method import MergeMethod, Site, check_share
from .ranks import mask_of_largest
from .sums import filled, relative, zeros

TOO_SMALL = 1e-6
"""mergekit's limit of energies and coefficients: below it coefficients are equal, and not divided by their sum."""


@dataclass(frozen=True, slots=True)
class Sce(MergeMethod):
    """SCE (Wan et al., FuseChat, arXiv 2408.07990).

    Select the share `density` of the entries that vary between contributors, those of largest variance; c_i is
    proportional to the mean square of d_i there. In every entry the sign of the larger sum is elected, and the mean
    by c of those who agree is taken: sum_i c_i m_i d_i / sum_i c_i m_i. Zero sums elect plus. Nothing selected or
    nothing there: equal coefficients.

    The paper's code selects for the coefficients only. Variant "mergekit": what was not selected is also erased, and
    coefficients are equal where mean squares sum to less than 1e-6, as they do in most fine-tunes. Weights, which
    the paper has not, count in mean, variance and coefficients. Relative to oneself own takes part: variance
    compares all who are there, and own's coefficient is 0.
    """

    density: float = 0.1
    variant: Literal["paper", "mergekit"] = "paper"

    own_votes: ClassVar[bool] = True
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a density that is no share."""
        check_share("density", self.density, zero=True, one=True)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Select, calculate, erase."""
        if len(deltas) != len(site.weights):
            raise ValueError(f"{len(deltas)} deltas, {len(site.weights)} weights")
        if not deltas or not len(deltas[0]):
            return zeros(deltas)
        span = Span(len(deltas[0]), deltas[0].device)
        selected = self._select(deltas, site.weights, span)
        shares = self._coefficients(span.total(lambda where: _energies(selected(where))), site)
        weights = relative(site.weights)

        def merged(where: slice) -> Tensor:
            votes = selected(where) if self.variant == "mergekit" else [delta[where] for delta in deltas]
            tally = votes[0] * weights[0]
            for vote, weight in zip(votes[1:], weights[1:], strict=True):
                tally.add_(vote, alpha=weight)
            sign = torch.copysign(torch.ones((), device=span.device), tally)
            total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
            for vote, share in zip(votes, shares, strict=True):
                agreeing = (vote * sign).clamp_(min=0)
                total.add_(agreeing * share)
                divisor.add_(agreeing.sign_().mul_(share))
            return total.mul_(sign).div_(self._not_zero(divisor))

        return span.assemble(merged)

    def _select(
        self, deltas: Sequence[Tensor], weights: Sequence[float], span: Span
    ) -> Callable[[slice], list[Tensor]]:
        """Return a function that reads parts of the deltas, of which what does not vary most is erased."""
        if self.density == 1:
            return lambda where: [delta[where] for delta in deltas]
        shares = _shares(weights)
        variance = span.assemble(lambda where: _variance([delta[where] for delta in deltas], shares))
        # In float32, as in the paper's code: 29 % of 100 are 29 there, and 28 in float64.
        mask = mask_of_largest(variance, (torch.count_nonzero(variance) * self.density).long())

        def selected(where: slice) -> list[Tensor]:
            chosen = mask(where)
            return [delta[where] * chosen for delta in deltas]

        return selected

    def _coefficients(self, energies: Tensor, site: Site) -> list[Tensor]:
        """Return each contributor's share of the mean squares, as 0-d tensors."""
        means = [energy * (weight / max(1, site.size)) for energy, weight in zip(energies, site.weights, strict=True)]
        total = torch.stack(means).sum()
        enough = total.abs() >= TOO_SMALL if self.variant == "mergekit" else total != 0
        total = total.where(enough, 1.0)
        return [
            torch.where(enough, mean / total, share) for mean, share in zip(means, _shares(site.weights), strict=True)
        ]

    def _not_zero(self, divisor: Tensor) -> Tensor:
        """Return what to divide by: where nobody agrees there is nothing to divide."""
        return divisor.clamp_(min=TOO_SMALL) if self.variant == "mergekit" else filled(divisor)


def _shares(weights: Sequence[float]) -> list[float]:
    """Return the weights with sum 1, or as they are where they cancel out."""
    total = sum(weights)
    return [weight / total if abs(total) > SMALLEST else weight for weight in weights]


def _variance(rows: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the weighted variance, exactly 0 where all are equal: of differences from the first, in float64.

    Entries with the same values, whoever has which, have the same variance.
    """
    first = rows[0].double()
    mean, square = torch.zeros_like(first), torch.zeros_like(first)
    for row, share in zip(rows[1:], shares[1:], strict=True):
        apart = row.double().sub_(first)
        mean.add_(apart, alpha=share)
        square.addcmul_(apart, apart, value=share)
    return square.addcmul_(mean, mean, value=-1).clamp_(min=0).float()


def _energies(rows: Sequence[Tensor]) -> Tensor:
    """Return each row's sum of squares, in float64: so its parts may be cut anywhere, and zeros left out."""
    return torch.stack([row.double().square_().sum() for row in rows])
