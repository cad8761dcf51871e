"""Who pulls the other way is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .average import SMALLEST
from .clipping import check_factor, clips, median_of, mixing, scaled_sum
from .distances import gram
from .method import MergeMethod, Scope, Site


@dataclass(frozen=True, slots=True)
class CosineFilter(MergeMethod):
    """Keep the deltas d_j with cos(d_j, d_own) > threshold; their weighted mean, clipped to `factor` median norms.

    d_own is one's own task vector; where models are files the first stands for it. A vector of zeros filters nobody.
    The median norm is that of all, and of an even number the lower. While fewer than half are hostile the result is
    no longer than `factor` times the longest honest delta. Deltas of 1 % density may have so few entries in common
    that chance decides their sign: a threshold of -0.05 keeps them. Relative to oneself task vectors are compared too,
    and differences are clipped to `factor` times the median of all neighbours' distances.
    """

    threshold: float = 0.0
    factor: float = 1.0
    scope: Scope = "global"

    sparse: ClassVar[bool] = True
    sees_own: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a threshold that is no cosine or keeps nobody, and a factor that leaves nothing."""
        if not -1 <= self.threshold < 1:
            raise ConfigError(f"threshold = {self.threshold}: give a cosine, from -1 up to but not 1")
        check_factor(self.factor)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean of the deltas that pull the way of one's own."""
        shares = mixing(deltas, site.weights)
        if not deltas:
            return torch.zeros(())
        products = gram([deltas[0] if site.own is None else site.own, *deltas])
        lengths = products.diagonal()[1:].sqrt()
        kept = self._kept(products[0, 0], products[0, 1:], lengths)
        weighed = torch.stack([keep * share for keep, share in zip(kept.double().unbind(), shares, strict=True)]).sum()
        scales = kept * clips(lengths, self.factor * median_of(lengths))
        return scaled_sum(deltas, scales / weighed.where(weighed.abs() > SMALLEST, 1.0), shares)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum by mixing weights of the clipped differences to those who pull the way of one's own."""
        if not deltas:
            return torch.zeros(())
        products = gram([torch.zeros_like(deltas[0]) if site.own is None else site.own, *deltas])
        squares = products.diagonal()
        theirs = (squares[0] + 2 * products[0, 1:] + squares[1:]).clamp(min=0).sqrt()
        kept = self._kept(squares[0], squares[0] + products[0, 1:], theirs)
        lengths = squares[1:].sqrt()
        return scaled_sum(deltas, kept * clips(lengths, self.factor * median_of(lengths)), site.weights[1:])

    def _kept(self, square: Tensor, products: Tensor, lengths: Tensor) -> Tensor:
        """Return who passes: own's squared norm, and the products with own and the norms of all who are compared."""
        return (products > self.threshold * square.sqrt() * lengths) | (square == 0)
