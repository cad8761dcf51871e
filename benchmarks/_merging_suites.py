"""What merge methods are compared on: a base, its fine-tunes for several tasks, and how well a model does each task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Part = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Suite:
    """One base and what became of it, one expert a task."""

    name: str
    seed: int
    tasks: tuple[str, ...]
    base: Parameters
    experts: tuple[Parameters, ...]
    statistics: Mapping[str, tuple[Parameters, ...]]
    """What each expert measured on its own training data, by kind."""
    accuracy: Callable[[Parameters, int, Part], float]
    """Of a model in a task, by its number."""
    train: Callable[[Parameters, int, int], Parameters]
    """Continue a model on a task for one round of gossip, by the task's and the round's number."""


class Judge:
    """Scores models; what was scored once is read from the cache, by the model's own bytes."""

    def __init__(self, suite: Suite, cache: Path | None) -> None:
        self._suite = suite
        self._path = cache / f"merging-scores-{suite.name}-{suite.seed}.json" if cache else None
        kept = self._path and self._path.exists()
        self._known: dict[str, list[float]] = json.loads(self._path.read_text()) if self._path and kept else {}

    def score(self, model: Parameters, part: Part) -> float:
        """Return the mean accuracy over the tasks."""
        return fmean(self._scores(model, range(len(self._suite.tasks)), part))

    def individual(self, part: Part) -> float:
        """Return the mean accuracy of each expert in its own task."""
        return fmean(self._scores(expert, [number], part)[0] for number, expert in enumerate(self._suite.experts))

    def _scores(self, model: Parameters, tasks: Sequence[int], part: Part) -> list[float]:
        key = f"{part} {','.join(map(str, tasks))} {digest(model)}"
        if key not in self._known:
            self._known[key] = [self._suite.accuracy(model, task, part) for task in tasks]
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_text(json.dumps(self._known))
        return self._known[key]


def digest(model: Parameters) -> str:
    """Return a hash of all of a model's entries."""
    digested = hashlib.blake2b(digest_size=12)
    for name in sorted(model):
        digested.update(name.encode())
        digested.update(model[name].contiguous().numpy().data)
    return digested.hexdigest()


def norm(delta: Parameters) -> float:
    """Return the Euclidean norm over all tensors."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in delta.values()))


def minus(one: Parameters, other: Parameters) -> Parameters:
    """Return the difference."""
    return {name: one[name] - other[name] for name in one}


def plus(one: Parameters, other: Parameters, scale: float = 1.0) -> Parameters:
    """Return one + scale * other."""
    return {name: torch.add(one[name], other[name], alpha=scale) for name in one}


def mean(models: Sequence[Parameters]) -> Parameters:
    """Return the mean of models."""
    return {name: torch.stack([model[name] for model in models]).mean(0) for name in models[0]}
