"""Rules for the base and one model, made to take any number of models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from .average import divisor, weighted_sum
from .method import MergeMethod, Site


class OneModelMethod(MergeMethod):
    """A rule that merges the base with one model. Of several, each is merged alone; the results' weighted mean counts.

    That generalisation is ours: the rules' authors take one model.
    """

    __slots__ = ()

    @abstractmethod
    def merge_one(self, delta: Tensor, site: Site) -> Tensor:
        """Return the merged task vector of one model, flat, as a tensor of its own."""

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the weighted mean of what becomes of each model."""
        return weighted_sum([self.merge_one(delta, site) for delta in deltas], site.weights, divisor(site.weights))


def base_of(site: Site) -> Tensor:
    """Return the base's weights; raises ValueError if the caller did not give what the method's `needs` ask for."""
    if site.base is None:
        raise ValueError("this method needs the base's weights")
    return site.base
