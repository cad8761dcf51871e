"""Methods by their names here or in other libraries: what `mergekit:ties` with its parameters is of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...protocol.errors import ConfigError
from ..merging import METHODS, MergeMethod, make_method
from ..merging.aliases import ALIASES, Alias
from ..registry import nearest

COMPLEMENT = "1 - "


def known_method(name: str, parameters: Mapping[str, Any], after: Sequence[Mapping[str, object]] = ()) -> MergeMethod:
    """Return a method by its name and its parameters in the terms of whoever named it. Raises ConfigError."""
    if name in METHODS:
        return make_method(name, parameters, after)
    if name not in ALIASES:
        raise unknown(name)
    alias = ALIASES[name]
    try:
        return make_method(alias.method, translated(alias, parameters), after)
    except ConfigError as error:
        raise ConfigError(f"{name} ({alias.method} here): {error}") from error


def unknown(name: str, ours: Iterable[str] = METHODS) -> ConfigError:
    """Return the error for a name that is none of ours: what another library calls so, or the nearest."""
    theirs = [key for key in ALIASES if key.partition(":")[2] == name]
    if theirs and name.replace("_", "-") not in METHODS:
        chosen = next((key for key in theirs if key.startswith("mergekit:")), theirs[0])
        hint = f"did you mean {chosen!r}, which is {ALIASES[chosen].method} here?"
    else:
        hint = nearest(name, ALIASES if ":" in name else ours)
    return ConfigError(f"unknown merge method {name!r}: {hint}")


def translated(alias: Alias, parameters: Mapping[str, Any]) -> dict[str, object]:
    """Return parameters by our names and values; what the alias does not name is taken as ours."""
    found = dict(alias.parameters)
    for key, value in parameters.items():
        ours = alias.names.get(key, key)
        if key in alias.values:
            found[ours] = _called(key, value, alias.values[key])
        elif ours.startswith(COMPLEMENT):
            found[ours.removeprefix(COMPLEMENT)] = _complement(key, value)
        else:
            found[ours] = value
    return found


def _called(key: str, value: object, values: Mapping[object, object]) -> object:
    """Return a value by our name."""
    if not isinstance(value, bool | int | str) or value not in values:
        raise ConfigError(f"{key} = {value!r}: choose from {', '.join(map(repr, values))}")
    return values[value]


def _complement(key: str, value: Any) -> Any:
    """Return 1 - value, for one number or for several."""
    if isinstance(value, list):
        return [_complement(key, one) for one in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key} = {value!r}: give a number")
    return 1 - value
