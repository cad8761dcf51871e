"""OTA: weigh entries by what the optimizer saw on its way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import WeightedMean
from .blocks import in_blocks
from .fisher import check_counts, check_not_negative, shared_mean
from .method import MergeMethod, Site, bounded, check_share
from .trim import keep_largest

MARGIN = 1.1
"""The official code takes an entry for masked by all where its weights sum to at most this times what epsilon adds."""


@dataclass(frozen=True, slots=True)
class Ota(MergeMethod):
    """OTA merging with Fast Fisher Grafting (Mahdavinia et al., arXiv 2509.11167): the mean by v_i^power + eps.

    That is sum_i w_i d_i / sum_i w_i, entry by entry, with w_i = v_i^power + eps. v is Adam's second moment at the end
    of training; its rank-1 form will do. `normalise = "global"` divides v^power by its mean in the tensor, which makes
    contributors with gradients of different scale equals.

    epsilon is a share of the mean of v^power over all contributors: v of a language model is 1e-12 and less, beside
    which a constant of 1e-8 leaves a plain mean.

    Grafting keeps the entries with v d^2 >= `threshold`, or each contributor's `density` of largest v d^2; masked
    entries take no part, and where everybody's is masked the merge falls back to the base or to the mean of all.
    Relative to oneself, own is never masked: its difference is 0 by definition, not for want of importance.

    variant "official": epsilon is absolute and enters the division of `normalise` too, and an entry counts as masked
    by all where its weights sum to at most 1.1 times all epsilons. Without v for a tensor: the weighted mean.
    """

    power: float = 0.5
    epsilon: float = 1e-6
    normalise: Literal["none", "global"] = "none"
    threshold: float | None = None
    density: float | None = None
    fallback: Literal["base", "mean"] = "base"
    variant: Literal["paper", "official"] = "paper"

    own_votes: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"second_moment"})

    def __post_init__(self) -> None:
        """Refuse powers, masks and constants that mean nothing."""
        if not 0 < self.power <= 2:
            raise ConfigError(f"power = {self.power}: give a number above 0 and up to 2; 0.5 and 1 are usual")
        check_not_negative("epsilon", self.epsilon)
        if self.threshold is not None and self.density is not None:
            raise ConfigError("threshold and density both choose what is kept: give one")
        if self.threshold is not None:
            check_not_negative("threshold", self.threshold)
        if self.density is not None:
            check_share("density", self.density, one=True)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean weighted by second moments, of what is not masked."""
        return self._merged(deltas, site, unmasked=0)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the bounded correction, own taking part unmasked."""
        if not deltas:
            return torch.zeros(())
        correction = self._merged([torch.zeros_like(deltas[0]), *deltas], site, unmasked=1)
        return bounded(correction, deltas, site.weights[1:])

    def _merged(self, deltas: Sequence[Tensor], site: Site, *, unmasked: int) -> Tensor:
        """Merge; the first `unmasked` contributors keep all entries."""
        if not deltas or "second_moment" not in site.statistics:
            return WeightedMean().merge(deltas, site)
        check_counts(deltas, site)
        moments, count = [measured.reshape(-1) for measured in site.statistics["second_moment"]], len(deltas)
        scales, masks = self._scales(moments), self._masks(deltas, moments, unmasked)

        def mean(*rows: Tensor) -> Tensor:
            here, seen, kept = rows[:count], rows[count : 2 * count], rows[2 * count :]
            shares = [
                v.pow(self.power).div_(scale).add_(self.epsilon).mul_(weight)
                for v, scale, weight in zip(seen, scales, site.weights, strict=True)
            ]
            if not kept:
                return shared_mean(here, shares)
            shares = [share.mul_(mask) for share, mask in zip(shares, kept, strict=True)]
            return torch.where(
                self._masked_by_all(shares, kept, site), self._ground(here, site), shared_mean(here, shares)
            )

        return in_blocks(mean, *deltas, *moments, *masks)

    def _scales(self, moments: Sequence[Tensor]) -> list[Tensor]:
        """Return what each contributor's v^power is divided by, 0-d."""
        means = [moment.pow(self.power).mean() for moment in moments]
        if self.variant == "official":
            return [mean + self.epsilon if self.normalise == "global" else torch.ones_like(mean) for mean in means]
        if self.normalise == "none":
            means = [torch.stack(means).mean()] * len(means)
        return [mean.where(mean > 0, 1.0) for mean in means]

    def _masks(self, deltas: Sequence[Tensor], moments: Sequence[Tensor], unmasked: int) -> list[Tensor]:
        """Return which entries each contributor keeps; nothing where all keep everything."""
        if self.threshold is None and self.density is None:
            return []
        masks = [torch.ones_like(delta, dtype=torch.bool) for delta in deltas[:unmasked]]
        for delta, moment in zip(deltas[unmasked:], moments[unmasked:], strict=True):
            importance = moment * delta.square()
            if self.threshold is not None:
                masks.append(importance >= self.threshold)
            elif self.density is not None:
                masks.append(keep_largest(importance, max(1, int(self.density * len(importance)))))
        return masks

    def _masked_by_all(self, shares: Sequence[Tensor], kept: Sequence[Tensor], site: Site) -> Tensor:
        if self.variant == "official":
            return torch.stack(list(shares)).sum(0) <= MARGIN * self.epsilon * sum(site.weights)
        return ~torch.stack(list(kept)).any(0)

    def _ground(self, rows: Sequence[Tensor], site: Site) -> Tensor:
        """Return where entries fall back to."""
        if self.fallback == "base":
            return torch.zeros_like(rows[0])
        return shared_mean(rows, [torch.full_like(rows[0], weight) for weight in site.weights])
