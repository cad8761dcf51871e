"""TIES: trim, elect a sign for every entry, merge those who agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from .blocks import Reader, Span
from .method import MergeMethod, Scope, Site, check_finite, check_share
from .readers import each, matched, named
from .trim import largest

Aggregate: TypeAlias = Literal["mean", "sum", "max"]
Variant: TypeAlias = Literal["mergekit", "official", "merge_llm", "peft", "peft-frequency"]


@dataclass(frozen=True, slots=True)
class Election:
    """How the votes on an entry elect its sign, and what becomes of those that agree with it. Zeros do not vote."""

    ballots: Literal["weighted", "plain", "signs"] = "weighted"
    """What is summed up: votes times their weights, votes as they are, or their signs alone."""
    draw: Literal["plus", "majority", "majority or minus", "nobody"] = "plus"
    """Who wins where the sum is 0: plus, the sign that more of all entries elected (of as many: nobody or minus), or
    nobody."""
    aggregate: Aggregate = "mean"
    """Of the agreeing votes times their weights: the sum divided by their weights, the sum, or the largest. Votes
    that were not weighted when they were cast are divided by their number."""

    def tally(self, votes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the sum of the ballots, vote by vote, so that opposite votes cancel out exactly."""
        total = torch.zeros_like(votes[0])
        for ballot in self._ballots(votes, weights):
            total += ballot.sign() if self.ballots == "signs" else ballot
        return total

    def merge(self, votes: Sequence[Tensor], weights: Sequence[float], majority: Tensor | None = None) -> Tensor:
        """Return the merge of votes on the same entries; `majority` is the sign for draws, where one is asked for."""
        tally = self.tally(votes, weights)
        sign = tally.sign() if self.draw == "nobody" else torch.copysign(torch.ones((), device=tally.device), tally)
        if majority is not None:
            sign = torch.where(tally == 0, majority, sign)
        merged, shares = torch.zeros_like(tally), torch.zeros_like(tally)
        weighted = self.ballots == "weighted"
        for ballot, weight in zip(self._ballots(votes, weights), weights, strict=True):
            agreeing = (ballot * sign).clamp_(min=0)
            value = agreeing if weighted else agreeing * weight
            merged = torch.maximum(merged, value) if self.aggregate == "max" else merged.add_(value)
            if self.aggregate == "mean":
                shares.add_(agreeing.sign_(), alpha=weight if weighted else 1.0)
        if self.aggregate == "mean":
            merged.div_(shares.masked_fill_(shares == 0, 1.0))
        return merged.mul_(sign)

    def _ballots(self, votes: Sequence[Tensor], weights: Sequence[float]) -> Sequence[Tensor]:
        if self.ballots != "weighted":
            return votes
        return [vote if weight == 1.0 else vote * weight for vote, weight in zip(votes, weights, strict=True)]


TO_ONESELF = Election(draw="nobody", aggregate="sum")
"""Relative to oneself: agreeing votes are summed by weight, and where nobody wins oneself stays."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a library trims and elects."""

    kept: Callable[[int, float], int]
    """The number of entries to keep, of the tensor's size and the density."""
    equals: bool = False
    """Whether entries as large as the last of them are kept as well."""
    election: Election = Election()


RULES: dict[Variant, Rule] = {
    "mergekit": Rule(lambda size, density: max(1, int(density * size))),
    "official": Rule(
        lambda size, density: int(density * size) + 1, equals=True, election=Election(draw="majority or minus")
    ),
    # It counts what to drop, by the complement of our density: rounding gives that as it was written.
    "merge_llm": Rule(
        lambda size, density: size - int(round(1 - density, 12) * size) + 1,
        equals=True,
        election=Election(draw="majority"),
    ),
    "peft": Rule(lambda size, density: int(density * size), election=Election("plain")),
    "peft-frequency": Rule(lambda size, density: int(density * size), election=Election("signs")),
}


@dataclass(frozen=True, slots=True)
class Ties(MergeMethod):
    """TIES-Merging (Yadav et al., arXiv 2306.01708): keep the top `density`, elect signs by mass, mean of who agrees.

    Libraries differ, each a `variant`:

    - "mergekit" keeps max(1, int(density n)) of a tensor's n entries, the first of equals; a sum of 0 elects plus.
    - "official" (also FusionBench; with scope "global") keeps int(density n) + 1 and all equal to the last of them; a
      sum of 0 elects the sign that most entries have, and minus where as many have either (but not for the largest).
    - "merge_llm" (MergeLLM) does so by tensor, with n - int((1 - density) n) + 1; where as many have either, nobody.
    - "peft" keeps int(density n), perhaps none, elects by deltas without weights or, "peft-frequency", by their
      number, and divides the weighted sum by the number of those who agree.

    aggregate: the mean of those who agree, their sum (mergekit's normalize = false), or the largest. rescale: let what
    is left of a delta have the sum of magnitudes it had. density: for all, or one per contributor.

    Relative to oneself this becomes the agreeing neighbours' sum by mixing weights, not divided by the weight of those
    who agree and not rescaled. The network's mean moves: by 2 % where the base-relative rule moves it by 105 %.
    """

    density: float | tuple[float, ...] = 0.2
    scale: float = 1.0
    scope: Scope = "tensor"
    aggregate: Aggregate = "mean"
    variant: Variant = "mergekit"
    rescale: bool = False

    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a density that keeps nothing or more than all."""
        for density in each(self.density, named(self.density)):
            check_share("density", density, one=True)
        check_finite("scale", self.scale)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the elected merge of the trimmed deltas."""
        return self._elected(deltas, site, replace(RULES[self.variant].election, aggregate=self.aggregate))

    def correct(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the agreeing neighbours' sum by mixing weights."""
        ballots = RULES[self.variant].election.ballots
        others = site.only(range(1, len(site.weights)))
        return replace(self, rescale=False)._elected(deltas, others, replace(TO_ONESELF, ballots=ballots))

    def _elected(self, deltas: Sequence[Tensor], site: Site, election: Election) -> Tensor:
        if not deltas:
            return torch.zeros(())
        span = Span(len(deltas[0]), deltas[0].device)
        densities = each(self.density, len(deltas))
        readers = [
            self._trimmed(delta, density, site.size, span) for delta, density in zip(deltas, densities, strict=True)
        ]
        return elect_read(readers, site.weights, span, election).mul_(self.scale)

    def _trimmed(self, delta: Tensor, density: float, size: int, span: Span) -> Reader:
        rule = RULES[self.variant]
        trimmed = largest(delta, rule.kept(size, density), equals=rule.equals)
        return matched(delta, trimmed, span) if self.rescale else trimmed


def elect(votes: Sequence[Tensor], weights: Sequence[float], election: Election = Election()) -> Tensor:
    """Elect the sign of larger weighted mass for every entry; return the weighted mean of the votes of that sign.

    Zeros do not vote; equal masses elect plus. A 0-d zero of no votes. Other rules: see `Election`.
    """
    if not votes:
        return torch.zeros(())
    return elect_read([vote.__getitem__ for vote in votes], weights, Span(len(votes[0]), votes[0].device), election)


def elect_read(readers: Sequence[Reader], weights: Sequence[float], span: Span, election: Election) -> Tensor:
    """Return what is elected of votes that are read part by part. Raises ValueError unless each has its weight."""
    if len(readers) != len(weights):
        raise ValueError(f"{len(readers)} votes, {len(weights)} weights")

    def votes(where: slice) -> list[Tensor]:
        return [read(where) for read in readers]

    majority = None
    if election.draw.startswith("majority"):
        majority = span.total(lambda where: election.tally(votes(where), weights).sign().sum()).sign().float()
        if election.draw == "majority or minus" and election.aggregate != "max":
            majority = torch.where(majority == 0, -1.0, majority)
    return span.assemble(lambda where: election.merge(votes(where), weights, majority))
