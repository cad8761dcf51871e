"""Model Breadcrumbs: leave out the smallest changes and the outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .average import divisor
from .blocks import BLOCK, Reader, Span
from .method import MergeMethod, Site, check_finite, check_share
from .ranks import at_rank
from .readers import each, matched, named
from .sums import sum_read
from .ties import TO_ONESELF, Election, elect_read
from .trim import largest


@dataclass(frozen=True, slots=True)
class _Crumbs(MergeMethod):
    """Fields and masks that both methods share."""

    density: float | tuple[float, ...] = 0.9
    gamma: float | tuple[float, ...] = 0.01
    scale: float = 1.0
    aggregate: Literal["sum", "mean"] = "sum"
    rescale: bool = False
    variant: Literal["mergekit", "official", "merge_llm"] = "mergekit"
    remove_first: bool = True

    def __post_init__(self) -> None:
        """Refuse densities that are no shares."""
        for density in each(self.density, named(self.density)):
            check_share("density", density, one=True)
        for gamma in each(self.gamma, named(self.gamma)):
            check_share("gamma", gamma, zero=True)
        check_finite("scale", self.scale)

    @property
    def sparse(self) -> bool:  # type: ignore[override]
        """Say whether zeros may be left out: not where rows are ranked."""
        return self.variant != "official"

    def _read(self, deltas: Sequence[Tensor], site: Site, span: Span, *, rescale: bool) -> list[Reader]:
        """Return what is left of each delta."""
        shares = zip(each(self.density, len(deltas)), each(self.gamma, len(deltas)), strict=True)
        readers = [self._left(delta, *both, site) for delta, both in zip(deltas, shares, strict=True)]
        return [matched(d, read, span) for d, read in zip(deltas, readers, strict=True)] if rescale else readers

    def _left(self, delta: Tensor, density: float, gamma: float, site: Site) -> Reader:
        if self.variant == "official":
            return self._by_row(delta, site.pieces[0].shape, density, gamma)
        if self.variant == "merge_llm":
            return _between(delta, site.size, density, gamma)
        if density == 1:
            return delta.__getitem__
        kept = int(density * site.size)
        removed = min(int(gamma * site.size), site.size - kept)
        outliers, both = largest(delta, removed), largest(delta, removed + kept)
        return lambda where: both(where) - outliers(where)

    def _by_row(self, delta: Tensor, shape: Sequence[int], density: float, gamma: float) -> Reader:
        if not shape or not len(delta):
            return delta.__getitem__
        removed, kept = int(shape[-1] * gamma), int(shape[-1] * density)
        last = removed + kept if self.remove_first else kept
        rows = delta.view(-1, shape[-1])
        step = max(1, BLOCK // shape[-1]) if delta.device.type == "cpu" else len(rows)
        left = torch.cat([_between_of_rows(part, removed, last) for part in rows.split(step)]).view(-1)
        return left.__getitem__


@dataclass(frozen=True, slots=True)
class Breadcrumbs(_Crumbs):
    """Model Breadcrumbs (Davari and Belilovsky, arXiv 2312.06795): scale * sum_i w_i m_i d_i.

    Masks leave out the largest `gamma` of |d_i| and the smallest, so that `density` remains; each is one for all or
    one per contributor. aggregate "mean" (mergekit's normalize = true) divides by the sum of weights; rescale: let
    what is left of a delta have the sum of magnitudes it had.

    Variants say what is ranked, and what gives way:

    - "mergekit": by tensor, as the paper says. `density` counts what is left, and of the largest `gamma` or less
      is removed so that there is as much. A tensor too small for its share, as of one entry, is left out whole.
    - "official": the paper's code ranks along the last dimension, row by row, and leaves 0-d tensors whole. `gamma`
      is removed, then `density` of the row kept; with `remove_first = false` the outliers are among what is kept.
    - "merge_llm" (MergeLLM): by tensor; 1 - density is removed, of it `gamma` are the *smallest* and what remains
      the largest; the last of the smallest and whatever ties with a cut-off stay.

    Else the smaller index counts as larger among equal magnitudes. Outliers are never merged: in iterated rounds
    nodes keep differing in them.
    """

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum of what is left."""
        by = divisor(site.weights) if self.aggregate == "mean" else 1.0
        return self._sum(deltas, site, self.scale / by, rescale=self.rescale)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the scaled sum of what is left, as it is, by mixing weights."""
        return self._sum(deltas, site.only(range(1, len(site.weights))), self.scale, rescale=False)

    def _sum(self, deltas: Sequence[Tensor], site: Site, scale: float, *, rescale: bool) -> Tensor:
        if not deltas:
            return torch.zeros(())
        span = Span(len(deltas[0]), deltas[0].device)
        readers = self._read(deltas, site, span, rescale=rescale)
        return sum_read(readers, [scale * weight for weight in site.weights], span)


@dataclass(frozen=True, slots=True)
class BreadcrumbsTies(_Crumbs):
    """Model Breadcrumbs (arXiv 2312.06795) before the sign election of TIES, in place of its trimming.

    The weighted sum of those who agree, times scale; zero sums elect plus. aggregate "mean" (mergekit's normalize =
    true) divides by their weights, as TIES does. See `Breadcrumbs` for the rest.
    """

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the elected merge of what is left."""
        return self._elected(deltas, site, Election(aggregate=self.aggregate), rescale=self.rescale)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the agreeing neighbours' scaled sum by mixing weights, of what is left as it is."""
        return self._elected(deltas, site.only(range(1, len(site.weights))), TO_ONESELF, rescale=False)

    def _elected(self, deltas: Sequence[Tensor], site: Site, election: Election, *, rescale: bool) -> Tensor:
        if not deltas:
            return torch.zeros(())
        span = Span(len(deltas[0]), deltas[0].device)
        readers = self._read(deltas, site, span, rescale=rescale)
        return elect_read(readers, site.weights, span, election).mul_(self.scale)


def _between(delta: Tensor, size: int, density: float, gamma: float) -> Reader:
    """Return a reader of MergeLLM's choice."""
    smallest = int(size * gamma)
    outliers = max(0, int(size * (1 - density)) - smallest)
    absent = size - len(delta)
    low, high = smallest - 1 - absent, max(0, size - 1 - outliers) - absent
    magnitude = delta.abs()
    floor = at_rank(magnitude, low) if low >= 0 else magnitude.new_zeros(())
    ceiling = at_rank(magnitude, high) if high >= 0 else magnitude.new_zeros(())

    def read(where: slice) -> Tensor:
        size = delta[where].abs()
        return delta[where] * ((size >= floor) & (size <= ceiling))

    return read


def _between_of_rows(rows: Tensor, removed: int, last: int) -> Tensor:
    """Return of each row what ranks below the `removed` largest and among the `last` largest, and zeros."""
    magnitude = rows.abs()
    # numpy sorts short rows as fast as it finds one rank in them, and much faster where many entries are equal.
    on_cpu = magnitude.device.type == "cpu"
    ascending = torch.from_numpy(np.sort(magnitude.numpy(), axis=1)) if on_cpu else magnitude.sort(dim=1).values
    kept, outliers = (_largest_of_rows(magnitude, ascending, k) for k in (last, removed))
    return rows * (kept & ~outliers)


def _largest_of_rows(magnitude: Tensor, ascending: Tensor, k: int) -> Tensor:
    """Return the mask of the k largest of each row; the smaller index wins ties."""
    length = magnitude.shape[-1]
    if k >= length or k <= 0:
        return torch.full_like(magnitude, k > 0, dtype=torch.bool)
    level = ascending[:, length - k, None]
    above, equal = magnitude > level, magnitude == level
    return above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
