"""Which tensors of which models are merged: whatever does not fit is an error, or somebody's choice on record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import torch

from ...protocol.errors import ConfigError
from ..merging.rows import Source
from .header import MERGED, QUANTISED, Described
from .reading import Checkpoint
from .recipe import Recipe

_EMBEDDING = re.compile(r"embed|wte|shared")
_OUTPUT = re.compile(r"head|embed|output|decoder")


class Model(Source, Protocol):
    """A checkpoint, or a delta file beside its base."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def tensors(self) -> Mapping[str, Described]:
        """Its tensors."""
        ...

    def fingerprint(self) -> str:
        """What tells it from others."""
        ...

    def digest(self, name: str) -> bytes:
        """Return the SHA-256 of the bytes of a tensor."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of every tensor."""

    contributors: dict[str, tuple[int, ...]]
    """The models that are merged in a tensor, by number; tensors that nobody merges are left out."""
    kept: dict[str, str] = field(default_factory=dict)
    """Tensors taken from the base (without one: the first model) as they are, and why."""
    missing: dict[str, list[str]] = field(default_factory=dict)
    """By model, the tensors it lacks."""
    tied: dict[str, dict[str, str]] = field(default_factory=dict)
    """By model, the tensors that it has under the name of another one only, with that name."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """By model, the tensors that are left out of the result."""
    repeated: dict[str, str] = field(default_factory=dict)
    """Tensors that repeat another one, as tied weights do, with its name: that one is merged, and stands in both."""


@dataclass(slots=True)
class _Problems:
    """What does not fit, gathered so that all of it is told at once."""

    missing: dict[str, list[str]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    """Of the missing, those with a twin, and the twin."""
    shapes: list[str] = field(default_factory=list)
    """Lines, one per tensor and model."""
    misshapen: list[str] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)

    def check(self, ground: Checkpoint) -> None:
        """Raise ConfigError that names everything, and the options."""
        lines = [self._missing(path, names, ground) for path, names in self.missing.items()]
        if self.shapes:
            alone = len(self.shapes) == 1
            cure = f"or {_ignoring(self.misshapen)} takes the base's"
            lines += [f"{self.shapes[0]} {cure}"] if alone else [*_first(self.shapes), cure]
        for path, names in self.extra.items():
            what = "tensor" if len(names) == 1 else f"{len(names)} tensors"
            verb = "is" if len(names) == 1 else "are"
            lines.append(
                f"{path}: {what} {', '.join(_first(names))} {verb} not in {ground.path}: --extra drop leaves out "
                "such tensors"
            )
        if lines:
            raise ConfigError("\n".join(lines))

    def _missing(self, path: str, names: Sequence[str], ground: Checkpoint) -> str:
        what, verb = ("tensor", "is") if len(names) == 1 else (f"{len(names)} tensors", "are")
        twin = next((self.tied[name] for name in names if name in self.tied), None)
        tied = f"--missing tied takes its {twin!r}, which is the same in {ground.path}, " if twin is not None else ""
        return (
            f"{path}: {what} {', '.join(_first([repr(name) for name in names]))} {verb} missing: {tied}--missing base "
            "takes the base's for this model, --missing skip merges the models that have it, "
            f"{_ignoring(names)} leaves the base's as it is"
        )


def match(ground: Checkpoint, models: Sequence[Model], recipe: Recipe) -> Plan:
    """Return what is merged. Raises ConfigError that names every tensor, the model and the option."""
    plan, problems = Plan({}), _Problems()
    _check_patterns(ground, models, recipe.ignore)
    _check_common(ground, models, recipe)
    for name, tensor in ground.tensors.items():
        if _matches(name, recipe.ignore):
            plan.kept[name] = "ignored"
            continue
        having = [i for i, model in enumerate(models) if name in model.tensors]
        for i in sorted(set(range(len(models))) - set(having)):
            _miss(plan, problems, ground, models[i], tensor, recipe)
        alike = [i for i in having if _same_shape(problems, ground, tensor, models[i])]
        if tensor.dtype not in MERGED or any(models[i].tensors[name].dtype not in MERGED for i in alike):
            _check_equal(plan, ground, tensor, [models[i] for i in alike], recipe)
        elif having or any(name in tied for tied in plan.tied.values()):
            plan.contributors[name] = tuple(having if recipe.missing == "skip" else range(len(models)))
        else:
            plan.kept[name] = "no model has it"
    for model in models:
        for name in model.tensors:
            if name not in ground.tensors and not _matches(name, recipe.ignore):
                _drop(plan, problems, model, name, recipe)
    problems.check(ground)
    if not plan.contributors:
        raise ConfigError(
            f"{ground.path}: no tensor is left to be merged: {', '.join(sorted(set(plan.kept.values())))}"
        )
    repeated = repetitions(ground, models, plan)
    for name in repeated:
        del plan.contributors[name]
    plan.repeated.update(repeated)
    return plan


def _check_common(ground: Checkpoint, models: Sequence[Model], recipe: Recipe) -> None:
    """Refuse models that share no name with the base: nothing of them would be merged."""
    for model in models:
        if not ground.tensors.keys() & model.tensors.keys() and model.tensors:
            what = "is this the base?" if recipe.base is not None else "are these models of one architecture?"
            raise ConfigError(f"{model.path}: no tensor in common with {ground.path}: {what}")


def _check_patterns(ground: Checkpoint, models: Sequence[Model], patterns: Sequence[str]) -> None:
    """Refuse patterns that match nothing: what they were meant for would be merged."""
    names = {name: None for model in (ground, *models) for name in model.tensors}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=1, cutoff=0) or ["none"]
            raise ConfigError(f"--ignore {pattern} matches no tensor: the nearest is {near[0]!r}")


def _first(names: Sequence[str], most: int = 20) -> list[str]:
    """Return the first names, and how many more there are."""
    return [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]


def _ignoring(names: Sequence[str]) -> str:
    """Return the flags that leave out these tensors."""
    return " ".join(f"--ignore {name}" for name in _first(list(dict.fromkeys(names))) if " " not in name)


def _miss(plan: Plan, problems: _Problems, ground: Checkpoint, model: Model, tensor: Described, recipe: Recipe) -> None:
    name = tensor.name
    twin = _twin(ground, name) if recipe.missing in ("error", "tied") else None
    if twin is not None and (twin not in model.tensors or model.tensors[twin].shape != tensor.shape):
        twin = None
    if recipe.missing == "tied" and twin is not None:
        plan.tied.setdefault(str(model.path), {})[name] = twin
        return
    if recipe.missing in ("error", "tied"):
        problems.missing.setdefault(str(model.path), []).append(name)
        if twin is not None:
            problems.tied[name] = twin
        return
    if recipe.missing == "base" and recipe.base is None:
        raise ConfigError(f"{model.path}: tensor {name!r} is missing, and --missing base needs a base")
    plan.missing.setdefault(str(model.path), []).append(name)


def _drop(plan: Plan, problems: _Problems, model: Model, name: str, recipe: Recipe) -> None:
    if recipe.extra == "error":
        problems.extra.setdefault(str(model.path), []).append(f"{name!r}{_tied(model, name)}")
        return
    plan.dropped.setdefault(str(model.path), []).append(name)


def _tied(model: Model, name: str) -> str:
    """Say so if a tensor repeats another one of its model, as writers of tied weights leave it."""
    twin = _twin(model, name) if isinstance(model, Checkpoint) else None
    return "" if twin is None else f" (a copy of {twin!r})"


def _twin(model: Checkpoint, name: str) -> str | None:
    """Return the name of another tensor of the same bytes."""
    like = (model.tensors[name].shape, model.tensors[name].dtype)
    twins = [n for n, t in model.tensors.items() if n != name and (t.shape, t.dtype) == like]
    alike = [n for n in twins if _begin(model, n) == _begin(model, name)]
    return next((n for n in alike if model.digest(n) == model.digest(name)), None)


def _begin(model: Checkpoint, name: str) -> bytes:
    """Return a tensor's first bytes: what tells most tensors apart without reading them whole."""
    return next((block.view(torch.uint8).numpy().tobytes() for block in model.blocks(name, 64)), b"")


def _same_shape(problems: _Problems, ground: Checkpoint, tensor: Described, model: Model) -> bool:
    """Say whether a model's tensor has the shape of the base's; note it if not."""
    shape = model.tensors[tensor.name].shape
    if shape == tensor.shape:
        return True
    rows = len(shape) == len(tensor.shape) == 2 and shape[1] == tensor.shape[1]
    cause = ": another vocabulary? Resize it to the same tokens first," if rows else ","
    problems.shapes.append(
        f"{model.path}: tensor {tensor.name!r} has shape {shape}, in {ground.path} {tensor.shape}{cause}"
    )
    problems.misshapen.append(tensor.name)
    return False


def _check_equal(plan: Plan, ground: Checkpoint, tensor: Described, models: Sequence[Model], recipe: Recipe) -> None:
    """Keep a tensor that cannot be merged, if everybody has the same."""
    name = tensor.name
    for model in models:
        same = model.tensors[name].dtype == tensor.dtype and model.digest(name) == ground.digest(name)
        if not same and recipe.integers == "error":
            kind = next(t.dtype for t in (model.tensors[name], tensor) if t.dtype not in MERGED)
            what = f"tensor {name!r} ({str(kind).removeprefix('torch.')})"
            if kind in QUANTISED:
                raise ConfigError(
                    f"{model.path}: {what} is quantised: merge the models in bfloat16 or float16, dequantised with "
                    "their scales, or --integers base takes the base's"
                )
            raise ConfigError(
                f"{model.path}: {what} holds no weights that could be merged, and differs from that "
                f"in {ground.path}: --integers base takes the base's"
            )
        if not same:
            plan.kept[name] = "not of weights, and not the same in all models"
            return
    plan.kept[name] = "not of weights"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def repetitions(ground: Checkpoint, models: Sequence[Model], plan: Plan) -> dict[str, str]:
    """Return the matrices to be merged that repeat another one, with its name.

    They do if they are the same in the base and in every model; an output layer whose embedding is the same in the
    base also where the configuration says that they are tied, whatever the models made of the copy.
    """
    found: dict[str, str] = {}
    groups: dict[object, list[str]] = {}
    for name, contributors in plan.contributors.items():
        tensor = ground.tensors[name]
        if len(tensor.shape) > 1 and tensor.size:
            kind = (tensor.shape, tensor.dtype, contributors, _begin(ground, name))
            groups.setdefault(kind, []).append(name)
    tied = ground.ties_embeddings()
    for names in groups.values():
        first = min(names, key=lambda name: _EMBEDDING.search(name) is None)
        for name in names:
            if name == first or ground.digest(name) != ground.digest(first):
                continue
            output = tied and _EMBEDDING.search(first) and _OUTPUT.search(name)
            if output or all(_repeats(model, plan, name, first) for model in models):
                found[name] = first
    return found


def _repeats(model: Model, plan: Plan, name: str, first: str) -> bool:
    own = plan.tied.get(str(model.path), {})
    name, first = own.get(name, name), own.get(first, first)
    if name not in model.tensors or first not in model.tensors:
        return name not in model.tensors and first not in model.tensors
    return name == first or model.digest(name) == model.digest(first)
