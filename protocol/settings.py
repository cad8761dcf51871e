"""How settings are read: TOML in, frozen models out. Unknown keys are errors that name the nearest key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .errors import ConfigError

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
"""What every table of a settings file is: immutable, and closed to unknown keys; tracebacks repeat no password."""

C = TypeVar("C", bound=BaseModel)


def load(model: type[C], path: Path | None, overrides: Mapping[str, Any]) -> C:
    """Read a TOML file (or nothing), lay `overrides` (dotted keys) over it, and validate.

    Raises ConfigError naming the file, the key and the nearest key or allowed values.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for key, value in overrides.items():
        put(data, key, value)
    return parse(model, data, str(path) if path else "the command line")


def parse(model: type[C], data: Mapping[str, Any], where: str) -> C:
    """Validate plain data; raises ConfigError."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, where, e) for e in error.errors())) from error


def parse_value(text: str) -> object:
    """Read the right side of `--set key=value` as TOML, or as a plain string."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, Any]:
    """Read the `key=value` texts of a repeated option; values are TOML, or else plain strings."""
    split = [(text, *text.partition("=")) for text in texts or ()]
    for text, key, equals, _ in split:
        if not key.strip() or not equals:
            raise ConfigError(f"{option} {text!r}: write key=value")
    return {key.strip(): parse_value(value.strip()) for _, key, _, value in split}


def put(data: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key in nested tables; raises ConfigError if a part of it is no table."""
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {key}: {part} is not a table")
    data[last] = value


def _explain(model: type[BaseModel], where: str, error: ErrorDetails) -> str:
    path = [str(p) for p in error["loc"]]
    key = ".".join(path)
    if error["type"] != "extra_forbidden":
        message = re.sub("^Value error, ", "", error["msg"])
        return f"{where}: {key or 'the file'}: {message}"
    known = _keys(model, path[:-1])
    near = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"{where}: unknown key {key!r}; {hint}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part.isdigit():
            continue  # an item of a list, whose type the list's field has told
        field = model.model_fields.get(part)
        inner = _item(field.annotation) if field else None
        if not _is_section(inner):
            return []
        model = inner
    return sorted(model.model_fields)


def _item(kind: object) -> object:
    """Return what a list holds, or the type itself."""
    return get_args(kind)[0] if get_origin(kind) is list else kind


def _is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
