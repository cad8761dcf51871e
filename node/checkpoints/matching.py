"""Which tensors of which models are merged: whatever does not fit is an error, or somebody's choice on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from ...protocol.errors import ConfigError
from ..merging.rows import Source
from .header import MERGED, Described
from .reading import Checkpoint
from .recipe import Recipe


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
        """Return the SHA-256 of the bytes of a tensor that holds no weights."""
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


def match(ground: Checkpoint, models: Sequence[Model], recipe: Recipe) -> Plan:
    """Return what is merged. Raises ConfigError that names the tensor, the model and the option."""
    plan = Plan({})
    for name, tensor in ground.tensors.items():
        if _matches(name, recipe.ignore):
            plan.kept[name] = "ignored"
            continue
        having = [i for i, model in enumerate(models) if name in model.tensors]
        for i in sorted(set(range(len(models))) - set(having)):
            _miss(plan, ground, models[i], tensor, recipe)
        for i in having:
            _check_shape(ground, tensor, models[i])
        if tensor.dtype not in MERGED or any(models[i].tensors[name].dtype not in MERGED for i in having):
            _check_equal(plan, ground, tensor, [models[i] for i in having], recipe)
        elif having or any(name in tied for tied in plan.tied.values()):
            plan.contributors[name] = tuple(having if recipe.missing == "skip" else range(len(models)))
        else:
            plan.kept[name] = "no model has it"
    for model in models:
        for name in model.tensors:
            if name not in ground.tensors and not _matches(name, recipe.ignore):
                _drop(plan, ground, model, name, recipe)
    return plan


def _miss(plan: Plan, ground: Checkpoint, model: Model, tensor: Described, recipe: Recipe) -> None:
    name = tensor.name
    twin = _twin(ground, name) if recipe.missing in ("error", "tied") else None
    if twin is not None and (twin not in model.tensors or model.tensors[twin].shape != tensor.shape):
        twin = None
    if recipe.missing == "tied" and twin is not None:
        plan.tied.setdefault(str(model.path), {})[name] = twin
        return
    if recipe.missing in ("error", "tied"):
        tied = f"--missing tied takes its {twin!r}, which is the same in {ground.path}, " if twin is not None else ""
        raise ConfigError(
            f"{model.path}: tensor {name!r} is missing: {tied}--missing base takes the base's for this model, "
            "--missing skip merges the models that have it"
        )
    if recipe.missing == "base" and recipe.base is None:
        raise ConfigError(f"{model.path}: tensor {name!r} is missing, and --missing base needs a base")
    plan.missing.setdefault(str(model.path), []).append(name)


def _drop(plan: Plan, ground: Checkpoint, model: Model, name: str, recipe: Recipe) -> None:
    if recipe.extra == "error":
        raise ConfigError(
            f"{model.path}: tensor {name!r}{_tied(model, name)} is not in {ground.path}: "
            "--extra drop leaves such tensors out"
        )
    plan.dropped.setdefault(str(model.path), []).append(name)


def _tied(model: Model, name: str) -> str:
    """Say so if a tensor repeats another one of its model, as writers of tied weights leave it."""
    twin = _twin(model, name) if isinstance(model, Checkpoint) else None
    return "" if twin is None else f" (a copy of {twin!r})"


def _twin(model: Checkpoint, name: str) -> str | None:
    """Return the name of another tensor of the same bytes."""
    like = (model.tensors[name].shape, model.tensors[name].dtype)
    twins = [n for n, t in model.tensors.items() if n != name and (t.shape, t.dtype) == like]
    return next((n for n in twins if model.digest(n) == model.digest(name)), None)


def _check_shape(ground: Checkpoint, tensor: Described, model: Model) -> None:
    shape = model.tensors[tensor.name].shape
    if shape == tensor.shape:
        return
    rows = len(shape) == len(tensor.shape) == 2 and shape[1] == tensor.shape[1]
    cause = ": another vocabulary? Resize it to the same tokens first, or" if rows else ":"
    raise ConfigError(
        f"{model.path}: tensor {tensor.name!r} has shape {shape}, in {ground.path} {tensor.shape}{cause} "
        f"--ignore {tensor.name} takes the base's"
    )


def _check_equal(plan: Plan, ground: Checkpoint, tensor: Described, models: Sequence[Model], recipe: Recipe) -> None:
    """Keep a tensor that cannot be merged, if everybody has the same."""
    name = tensor.name
    for model in models:
        same = model.tensors[name].dtype == tensor.dtype and model.digest(name) == ground.digest(name)
        if not same and recipe.integers == "error":
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(
                f"{model.path}: tensor {name!r} ({kind}) holds no weights that could be merged, and differs from that "
                f"in {ground.path}: --integers base takes the base's"
            )
        if not same:
            plan.kept[name] = "not of weights, and not the same in all models"
            return
    plan.kept[name] = "not of weights"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
