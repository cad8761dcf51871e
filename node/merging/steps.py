"""Steps after a merge: what a merged task vector still goes through, whatever method made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from .method import MergeMethod, Scope, Site, bounded


class Step(ABC):
    """A rule applied to what a method merged. Fields are hyperparameters; the class docstring names the paper."""

    __slots__ = ()

    def counted(self, names: Iterable[str]) -> Self:
        """Return the step for a model with tensors of these names. Raises ConfigError if it finds no block to count."""
        return self

    @abstractmethod
    def apply(self, merged: Tensor, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the merged vector after this step, tensor by tensor; `merged` may be overwritten, `deltas` may not."""


@dataclass(frozen=True, slots=True)
class Followed(MergeMethod):
    """A method and the steps after it, which is a method again."""

    method: MergeMethod
    steps: tuple[Step, ...]

    # What the method says of itself holds for the whole, so these are the instance's, not the class's.
    @property
    def own_votes(self) -> bool:  # type: ignore[override]
        """Return the method's."""
        return self.method.own_votes

    @property
    def sparse(self) -> bool:  # type: ignore[override]
        """Return False: steps look at whole tensors."""
        return False

    @property
    def sees_own(self) -> bool:  # type: ignore[override]
        """Return the method's."""
        return self.method.sees_own

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Return the method's."""
        return self.method.needs

    @property
    def scope(self) -> Scope:
        """Return the method's: a step works on every tensor by itself."""
        return self.method.scope

    def counted(self, names: Iterable[str]) -> Followed:
        """Return the same with steps that know the model's blocks."""
        found = list(names)
        return replace(self, steps=tuple(step.counted(found) for step in self.steps))

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Merge, then take the steps."""
        return self._after(self.method.merge(deltas, site), deltas, site)

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Correct, then take the steps, within what neighbours may move: a step that amplifies would part the nodes."""
        others = site.only(range(1, len(site.weights)))
        corrected = self._after(self.method.correct(deltas, site), deltas, others)
        return bounded(corrected, deltas, others.weights) if deltas else corrected

    def _after(self, merged: Tensor, deltas: Sequence[Tensor], site: Site) -> Tensor:
        for step in self.steps if deltas else ():
            merged = step.apply(merged, deltas, site)
        return merged


def scale_pieces(merged: Tensor, site: Site, factors: Sequence[float]) -> Tensor:
    """Return the vector with each of its tensors scaled in place by a factor of its own."""
    for part, factor in zip(site.split(merged), factors, strict=True):
        part.mul_(factor)
    return merged
