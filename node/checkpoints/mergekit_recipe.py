"""mergekit's recipes in YAML, where their method is one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ...protocol.errors import ConfigError
from ..merging.aliases import ALIASES

PREFIX: Final = "mergekit:"
ABSOLUTE: Final = frozenset({"linear", "karcher", "passthrough"})
"""Methods that know no base: it is one of the models, the last if it is not listed."""
RELATIVE_OR_NOT: Final = frozenset({"multislerp", "nuslerp"})
"""Methods that merge changes of a base if there is one, and else the weights."""
WEIGHTED: Final = frozenset(
    {"linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear"}
    | {"breadcrumbs", "breadcrumbs_ties", "nuslerp", "multislerp"}
)
"""Methods whose models have weights; the others merge them as equals whatever the recipe says."""
KNOWN: Final = frozenset({"base_model", "dtype", "merge_method", "models", "out_dtype", "parameters", "slices"})
WITHOUT_EFFECT: Final = {
    "tokenizer_source": "the tokenizer is the base's",
    "tokenizer": "the tokenizer is the base's",
    "chat_template": "the chat template is the base's",
}
IGNORED: Final = frozenset({"int8_mask"})
"""Parameters that only choose how mergekit computes."""


def translate(text: str, path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return our recipe for one of mergekit's, and what of it has no effect here.

    Raises ConfigError that names what is not supported.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict) or "merge_method" not in data:
        raise ConfigError(f"{path}: not a mergekit recipe: it names no merge_method")
    for key in sorted(map(str, data.keys() - KNOWN - WITHOUT_EFFECT.keys())):
        raise ConfigError(f"{path}: {key} is not supported: merge with mergekit, or without it")
    method = str(data["merge_method"])
    if PREFIX + method not in ALIASES:
        ours = ", ".join(sorted(name.removeprefix(PREFIX) for name in ALIASES if name.startswith(PREFIX)))
        raise ConfigError(f"{path}: merge_method {method} is not supported; these are: {ours}")
    models, parameters = _models(data, path)
    base = data.get("base_model")
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base_model is not supported in this form: give its path")
    if base is None and method not in ABSOLUTE | RELATIVE_OR_NOT:
        raise ConfigError(f"{path}: {method} needs a base_model")
    shared = {str(key): _setting(value, path) for key, value in parameters.items() if key not in IGNORED}
    named = list(_named(models, path))
    listed = any(name == base for name, _ in named) or "slices" in data
    if method not in ABSOLUTE:
        inputs = [(name, own) for name, own in named if name != base]
    elif base is None or listed:
        inputs = named
    elif method in WEIGHTED and "weight" not in shared:
        raise ConfigError(f"{path}: {method} merges the base_model, too: list it with its weight, or leave it out")
    else:
        inputs = [*named, (base, {})]
    weight = shared.pop("weight", 1.0)
    weights = [_setting(own["weight"], path) if "weight" in own else weight for _, own in inputs]
    notices = [f"{key} has no effect: {WITHOUT_EFFECT[key]}" for key in WITHOUT_EFFECT if data.get(key)]
    if method not in WEIGHTED and any(one != 1.0 for one in weights):
        notices.append(f"weight has no effect: mergekit's {method} merges models as equals")
        weights = [1.0] * len(inputs)
    for key in sorted({key for _, own in inputs for key in own} - {"weight"} - IGNORED):
        values = [_setting(own[key], path) if key in own else shared.get(key) for _, own in inputs]
        if None in values:
            raise ConfigError(f"{path}: {key} is given for some models and not for others: give it for all")
        shared[key] = values[0] if all(value == values[0] for value in values) else {"each": values}
    recipe = {
        "method": PREFIX + method,
        "base": None if method in ABSOLUTE else base,
        "models": [{"path": name, "weight": one} for (name, _), one in zip(inputs, weights, strict=True)],
        "parameters": shared,
        "dtype": data.get("out_dtype") or data.get("dtype"),
    }
    return recipe, notices


def _models(data: Mapping[str, Any], path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return models with their own parameters, and the parameters for all; of slices, if one covers everything."""
    parameters = _table(data.get("parameters"), "parameters", path)
    if "slices" not in data:
        return _tables(data.get("models"), "models", path), parameters
    slices = _tables(data["slices"], "slices", path)
    if "models" in data or len(slices) != 1 or set(slices[0]) - {"sources", "parameters"}:
        raise ConfigError(f"{path}: slices are not supported unless a single one covers the whole models")
    sources = _tables(slices[0].get("sources"), "sources", path)
    ranges = [tuple(source.get("layer_range") or ()) for source in sources]
    whole = _layers(path.parent / Path(str(sources[0].get("model"))).expanduser())
    for found in ranges:
        if found != ranges[0] or len(found) != 2 or found[0] != 0 or (whole is not None and found[1] != whole):
            raise ConfigError(
                f"{path}: layer_range {list(found)} is not supported: only whole models"
                + (f", which have {whole} layers" if whole is not None else "")
            )
    return sources, parameters | _table(slices[0].get("parameters"), "parameters", path)


def _tables(value: Any, key: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise ConfigError(f"{path}: {key} is not supported in this form: give a list of tables")
    return value


def _table(value: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise ConfigError(f"{path}: {key} is not supported in this form: give a table")
    return dict(value or {})


def _layers(model: Path) -> int | None:
    """Return the number of blocks in a model, None where it cannot be read."""
    from .depth import blocks
    from .reading import Checkpoint

    try:
        with Checkpoint.open(model) as found:
            return blocks(found.tensors)
    except ConfigError:
        return None  # the merge itself will say what is wrong


def _named(models: Sequence[Mapping[str, Any]], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in models:
        if not isinstance(model.get("model"), str):
            raise ConfigError(f"{path}: a model is not supported in this form: give its path as `model:`")
        if "+" in model["model"]:
            raise ConfigError(f"{path}: model {model['model']}: adapters are not supported; merge them in first")
        yield model["model"], _table(model.get("parameters"), "parameters", path)


def _setting(value: Any, path: Path) -> Any:
    """Return a parameter as one of our settings: lists are gradients, or cases by a part of the tensor's name."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return _number(value)
    if all(isinstance(one, dict) for one in value):
        return {
            "cases": [{"match": _pattern(one.get("filter")), "value": _setting(one["value"], path)} for one in value]
        }
    value = [_number(one) for one in value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        raise ConfigError(f"{path}: the list {value} is not supported: only numbers can change with depth")
    return {"gradient": [float(one) for one in value]}


def _number(value: Any) -> Any:
    """Return a number that YAML reads as a text, such as 1e-4, as the number that was meant."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _pattern(part: str | None) -> str:
    """Return the pattern of names that hold this part."""
    if part is None or part == "*":
        return "*"
    return f"*{''.join(f'[{c}]' if c in '[*?' else c for c in part)}*"
