"""Build a choice of the configuration: a frozen dataclass, from its name and its parameters."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..protocol.errors import ConfigError

T = TypeVar("T")


def make(kind: str, registry: Mapping[str, type[T]], name: str, parameters: Mapping[str, object]) -> T:
    """Return the `kind` (a word for messages) called `name`; raise ConfigError that names the key and the cure."""
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r}: {nearest(name, registry)}")
    build: Callable[..., T] = registry[name]
    required = _parameters_of(registry[name])
    for key in parameters:
        if key not in required:
            raise ConfigError(f"{kind} {name!r} has no parameter {key!r}: {nearest(key, required)}")
    missing = [key for key, needed in required.items() if needed and key not in parameters]
    if missing:
        raise ConfigError(f"{kind} {name!r} needs {', '.join(missing)}")
    types = get_type_hints(build)
    try:
        return build(**{key: _checked(key, types[key], value) for key, value in parameters.items()})
    except ConfigError as error:
        raise ConfigError(f"{kind} {name!r}: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to a mistyped one, or else all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(choices)}" if choices else "it has none"


def _parameters_of(cls: Any) -> dict[str, bool]:
    """Return the dataclass's fields, each with whether it must be given."""
    fields = [field for field in dataclasses.fields(cls) if field.init]
    absent = dataclasses.MISSING
    return {field.name: field.default is absent and field.default_factory is absent for field in fields}


def _checked(key: str, expected: Any, value: object) -> object:
    """Return the value as its field's type; integers pass as floats, nothing else is converted."""
    try:
        return TypeAdapter(expected).validate_python(_frozen(value), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{key} = {value!r}: {error.errors()[0]['msg']}") from error


def _frozen(value: object) -> object:
    """Turn lists, as TOML gives them, into tuples all the way down."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
