"""Merge models that lie in files, tensor by tensor, into a model in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch

from ...protocol.errors import ConfigError
from .delta_file import DeltaFile
from .delta_index import MAGIC
from .header import MERGED, Described
from .layout import arrange
from .matching import Model, match
from .reading import REPORT, Checkpoint
from .recipe import Recipe
from .work import Work
from .writing import Output

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What was merged, and what became of the rest."""

    out: str
    recipe: dict[str, object]
    merged: int
    """Tensors that the method made."""
    sparse: int
    """Those of them for which only entries were merged."""
    kept: Mapping[str, str]
    missing: Mapping[str, Sequence[str]]
    tied: Mapping[str, Mapping[str, str]]
    dropped: Mapping[str, Sequence[str]]
    repeated: Mapping[str, str]
    """Tensors written a second time, as tied weights are, with the name of what was merged."""
    ground: str
    """The model that decided names, shapes, types and configuration: the base, or without one the first model."""
    files: Sequence[str]
    """Files beside the weights that were carried along."""
    left_behind: Sequence[str]
    """What else stands there: folders, and weights in other forms."""
    resumed: int
    """Tensors that an earlier run had written."""


def merge(
    recipe: Recipe,
    out: Path,
    *,
    shard_bytes: int | None = None,
    device: str = "cpu",
    started: Told = lambda _: None,
    told: Told = lambda _: None,
) -> Report:
    """Merge what a recipe names into a file or folder; called again after an interruption, go on where it stopped.

    `started` hears how many bytes the result will have, `told` how many more of them are done. Memory: the largest
    tensor in float32, once per model and twice more, besides what the method itself takes; for methods that look at
    all tensors at once the same of the whole model. Raises ConfigError.
    """
    with ExitStack() as stack:
        inputs = _open(stack, recipe)
        ground = inputs.ground
        plan = match(ground, inputs.models, recipe)
        work = Work(recipe, plan, inputs.base, inputs.models, inputs.statistics, _device(device))
        calls = work.calls()
        tensors = {name: _cast(tensor, recipe.dtype) for name, tensor in ground.tensors.items()}
        files = arrange(out, ground, list(tensors.values()), shard_bytes)
        made_of = [recipe.model_dump(mode="json"), inputs.fingerprints(), shard_bytes, device]
        started(sum(tensor.nbytes for tensor in tensors.values()))
        metadata = ground.metadata or {"format": "pt"}
        with Output(out, files, metadata, json.dumps(made_of, sort_keys=True)) as output:
            before = len(output.done)
            told(sum(tensors[name].nbytes for name in output.done))
            for name in plan.kept.keys() - output.done:
                output.copy(tensors[name], (block.to(tensors[name].dtype) for block in ground.blocks(name)))
                told(tensors[name].nbytes)
            for call in calls:
                targets = {
                    name: [name, *(twin for twin, of in plan.repeated.items() if of == name)] for name in call.names
                }
                if output.done.issuperset(chain.from_iterable(targets.values())):
                    continue
                for name, flat in work.merged(call):
                    for target in targets[name]:
                        output.write(tensors[target], flat)
                        told(tensors[target].nbytes)
            report = Report(
                out=str(out),
                recipe=recipe.model_dump(mode="json", exclude_defaults=True),
                merged=len(plan.contributors),
                sparse=work.sparse,
                kept=plan.kept,
                missing=plan.missing,
                tied=plan.tied,
                dropped=plan.dropped,
                repeated=plan.repeated,
                ground=str(ground.path),
                files=[path.name for path in ground.extras],
                left_behind=ground.left_behind,
                resumed=before,
            )
            output.finish(ground.extras, {REPORT: json.dumps(asdict(report), indent=1).encode() + b"\n"})
    return report


def _device(name: str) -> torch.device:
    """Return a device that works. Raises ConfigError."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: there is no CUDA device here that torch can use: leave --device out")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for it
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a recipe names, open."""

    base: Checkpoint | None
    models: Sequence[Model]
    statistics: Mapping[str, Sequence[Checkpoint]]

    @property
    def ground(self) -> Checkpoint:
        """Return the model whose names, shapes, types and files the result has."""
        return self.base or next(model for model in self.models if isinstance(model, Checkpoint))

    def fingerprints(self) -> list[str]:
        """Return what tells all of them from others."""
        measured = chain.from_iterable(self.statistics.values())
        return [model.fingerprint() for model in (self.ground, *self.models, *measured)]


def _open(stack: ExitStack, recipe: Recipe) -> _Inputs:
    base = None if recipe.base is None else _open_base(stack, recipe.base)
    models: list[Model] = []
    for one in recipe.models:
        opened = open_model(one.path, base)
        stack.push(opened)
        models.append(opened)
    statistics = {
        kind: [stack.enter_context(Checkpoint.open(path)) for path in paths]
        for kind, paths in recipe.statistics.items()
    }
    for kind, files in statistics.items():
        if len(files) != len(models):
            raise ConfigError(f"--statistics {kind}: {len(files)} files for {len(models)} models")
    return _Inputs(base, models, statistics)


def _open_base(stack: ExitStack, path: Path) -> Checkpoint:
    if is_delta(path):
        raise ConfigError(f"--base {path}: a delta file is no base: make its model first, with `peermerge delta apply`")
    return stack.enter_context(Checkpoint.open(path))


def open_model(path: Path, base: Checkpoint | None) -> Checkpoint | DeltaFile:
    """Open a checkpoint or a delta file, told by its first bytes. Raises ConfigError."""
    if not is_delta(path):
        return Checkpoint.open(path)
    if base is None:
        raise ConfigError(f"{path}: a delta file is merged relative to its base: give --base")
    return DeltaFile(path, base)


def is_delta(path: Path) -> bool:
    """Say whether a file begins as delta files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # whoever opens it as a checkpoint says what is wrong


def _cast(tensor: Described, dtype: str | None) -> Described:
    """Return a tensor as it is to be written."""
    weights = dtype is not None and tensor.dtype in MERGED
    return Described(tensor.name, getattr(torch, dtype) if weights and dtype else tensor.dtype, tensor.shape)
