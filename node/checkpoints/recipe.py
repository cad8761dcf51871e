"""What is merged and how: a recipe, from a TOML file or from the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from ...protocol.errors import ConfigError
from ..config import Section, parse
from .settings import Cases, Each, Gradient, Weight

SHORT: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
"""Types as many call them."""


class Input(Section):
    """A model that takes part."""

    path: Path
    """A safetensors file, a folder, or a delta file."""
    weight: Weight = 1.0
    """A number, a gradient, or cases."""


class Recipe(Section):
    """All that decides the bits of a merge besides the models' own."""

    method: str = "weighted-mean"
    """One of ours, or a library's with its name in front, such as mergekit:ties."""
    base: Path | None = None
    """The model that the others were fine-tuned from; without one they are merged as they are."""
    models: Annotated[list[Input], Field(min_length=1)]
    """In the order that counts, where the method's rule depends on one."""
    parameters: dict[str, Cases | Gradient | Each | Any] = Field(default_factory=dict)
    """The method's; each a value, a gradient, cases, or one of these for each model."""
    after: list[dict[str, Any]] = Field(default_factory=list)
    """Steps after the method: tables with `step` and its parameters."""
    statistics: dict[str, list[Path]] = Field(default_factory=dict)
    """What was measured of the models, for methods that need it: per kind one file per model."""
    dtype: Annotated[
        Literal["float64", "float32", "float16", "bfloat16"] | None, BeforeValidator(lambda v: SHORT.get(str(v), v))
    ] = None
    """Type of the result's weights; each tensor's own in the base unless set."""
    seed: Annotated[int, Field(ge=0)] = 0
    """For methods that draw."""
    missing: Literal["error", "tied", "base", "skip"] = "error"
    """Of a tensor that a model lacks: stop; take its twin, by the base; take the base's; merge those that have it."""
    extra: Literal["error", "drop"] = "error"
    """A model has a tensor that the base lacks: stop, or leave it out."""
    integers: Literal["error", "base"] = "error"
    """Buffers of integers, and other tensors that hold no weights, differ: stop, or take the base's."""
    ignore: list[str] = Field(default_factory=list)
    """Patterns of names whose tensors are the base's, whatever the models hold."""


def read_recipe(path: Path) -> tuple[Recipe, list[str]]:
    """Return a recipe file's contents, and what of it has no effect here. Raises ConfigError.

    TOML is our own form, YAML that of mergekit. Paths count from the recipe's folder.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if path.suffix != ".toml":
        from .mergekit_recipe import translate

        data, notices = translate(text, path)
    else:
        try:
            data, notices = tomllib.loads(text), []
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return _from(path.parent, parse(Recipe, data, str(path))), notices


def _from(folder: Path, recipe: Recipe) -> Recipe:
    """Return the recipe with paths that lead there from the working directory."""
    return recipe.model_copy(
        update={
            "base": None if recipe.base is None else folder / recipe.base.expanduser(),
            "models": [m.model_copy(update={"path": folder / m.path.expanduser()}) for m in recipe.models],
            "statistics": {k: [folder / path.expanduser() for path in paths] for k, paths in recipe.statistics.items()},
        }
    )
