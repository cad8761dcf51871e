"""What a merge method is: a frozen dataclass of hyperparameters with one pure function of tensors.

A method states the rule of its paper, relative to the base (`merge`). What a node of an iterated run does, relative
to itself, follows from that rule (`correct`): nobody moves an entry by more than its weight in the mixing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .blocks import in_blocks

Scope = Literal["tensor", "global"]
Reference = Literal["own", "base"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor in a flat vector."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of its entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a merge happens: all that a method sees besides the deltas. One entry per contributor, in their order."""

    weights: tuple[float, ...]
    """1 each is usual where contributors merge as equals; only relative to oneself do they sum to 1."""
    pieces: tuple[Piece, ...]
    """The tensors whose entries the deltas hold, one after the other; several only where the scope is global."""
    seeds: tuple[int, ...] = ()
    """For methods that draw: one per contributor, another for every tensor."""
    start: int = 0
    """Where in the tensor the deltas begin, if it is merged in parts."""
    base: Tensor | None = None
    """The weights that the deltas are relative to, flat: absent where the method does not ask for them."""
    own: Tensor | None = None
    """One's own task vector, where the method sees it and there is such a thing: files are nobody's own."""
    statistics: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """What contributors measured of this one tensor, by kind; absent where nobody measures it, as for buffers."""

    @property
    def size(self) -> int:
        """Return the entries in all pieces: what densities count. Deltas of a sparse merge hold fewer."""
        return sum(piece.size for piece in self.pieces)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors in a flat vector, as views in their shapes."""
        parts = torch.split(flat, [piece.size for piece in self.pieces])
        return [part.view(piece.shape) for part, piece in zip(parts, self.pieces, strict=True)]

    def only(self, contributors: Sequence[int]) -> Site:
        """Return the same place with these contributors alone."""
        return replace(
            self,
            weights=tuple(self.weights[i] for i in contributors),
            seeds=tuple(self.seeds[i] for i in contributors) if self.seeds else (),
            statistics={kind: tuple(values[i] for i in contributors) for kind, values in self.statistics.items()},
        )


class MergeMethod(ABC):
    """A merge rule. Fields are hyperparameters; the class docstring names the paper."""

    __slots__ = ()

    own_votes: ClassVar[bool] = False
    """Relative to oneself: own takes part as a delta of zeros, because the rule compares all who are there."""
    sparse: ClassVar[bool] = False
    """Entries that are 0 in every delta come out 0 and change nothing else: they may be left out of the vectors."""
    elementwise: ClassVar[bool] = False
    """An entry's result depends on this entry of the deltas alone: long tensors may be merged in parts."""
    sees_own: ClassVar[bool] = False
    """The rule compares others with one's own task vector: `site.own`."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What the rule cannot do without: "base", or kinds of statistics."""

    @property
    def scope(self) -> Scope:
        """Say what one call sees: one tensor after the other, or all tensors as one flat vector without padding."""
        return "tensor"

    def counted(self, names: Iterable[str]) -> MergeMethod:
        """Return the method for a model with tensors of these names, whose blocks a step may have to count."""
        return self

    @abstractmethod
    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the merged task vector by the paper's rule, flat, of task vectors relative to the base.

        Deltas are finite flat float32 tensors of one length and device, in canonical order; they are never modified,
        and nothing leaves their device. Without a base they are the weights themselves. Raises ValueError if the
        numbers of deltas and weights differ. Nobody contributes: a 0-d zero, which adds to tensors of any length.
        """

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the correction relative to oneself, flat.

        Deltas are the neighbours' P_j - P_own, and what `site` says of the base is said of one's own state. `site`
        describes own first and has one contributor more than there are deltas: own's delta is 0. Weights are those
        of the mixing and sum to 1.
        """
        if not deltas:
            return torch.zeros(())
        if self.own_votes:
            return bounded(self.merge([torch.zeros_like(deltas[0]), *deltas], site), deltas, site.weights[1:])
        others = site.only(range(1, len(site.weights)))
        total = sum(others.weights)
        if not total:
            return torch.zeros_like(deltas[0])
        alone = replace(others, weights=tuple(weight / total for weight in others.weights))
        return bounded(self.merge(deltas, alone) * total, deltas, others.weights)


def bounded(correction: Tensor, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the correction between sum_j w_j min(d_j, 0) and sum_j w_j max(d_j, 0), entry by entry.

    Rules that divide by the weight of those who voted give an entry that one neighbour alone changed to this
    neighbour whole; in iterated rounds that moves the network's mean. Bounded so, no neighbour moves an entry by more
    than its weight, equal states stay where they are, and the weighted mean passes unchanged.
    """

    def clamp(value: Tensor, *rows: Tensor) -> Tensor:
        low, high = torch.zeros_like(value), torch.zeros_like(value)
        for row, weight in zip(rows, weights, strict=True):
            low.add_(row.clamp(max=0), alpha=weight)
            high.add_(row.clamp(min=0), alpha=weight)
        return value.clamp(low, high)

    return in_blocks(clamp, correction, *deltas)


def check_share(key: str, value: float, *, zero: bool = False, one: bool = False) -> None:
    """Raise ConfigError unless the value lies between 0 and 1; `zero` and `one` say which end is allowed."""
    if not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        ends = ("from 0" if zero else "above 0", "up to 1" if one else "below 1")
        raise ConfigError(f"{key} = {value}: give a share {ends[0]} and {ends[1]}")


def check_finite(key: str, value: float) -> None:
    """Raise ConfigError unless the value is a number."""
    if not math.isfinite(value):
        raise ConfigError(f"{key} = {value}: give a finite number")
