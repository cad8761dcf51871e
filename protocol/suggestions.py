"""What a coordinator may suggest to newcomers: a few shared settings, never code, tasks, paths or addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from .errors import ConfigError
from .limits import MAX_SUGGESTION_BYTES, MAX_SUGGESTIONS

SUGGESTIBLE: Final[dict[str, type]] = {
    "topology.name": str,
    "topology.parameters": dict,
    "topology.weights": str,
    "schedule.rounds": int,
    "schedule.local_steps": int,
    "schedule.merge": str,
    "schedule.every": int,
    "schedule.final": str,
    "publish.density": float,
}
"""Keys of a node's configuration, and what their values are."""
_LARGEST: Final = 1 << 53
_DEPTH: Final = 8


def write(key: str, value: object) -> str:
    """Return a suggestion as it travels. Raises ConfigError for what no node would take."""
    if key not in SUGGESTIBLE:
        raise ConfigError(f"{key!r} cannot be suggested, only {', '.join(SUGGESTIBLE)}")
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        text = ""
    if not text or len(text) > MAX_SUGGESTION_BYTES or not _fits(key, value):
        raise ConfigError(f"{key} = {value!r} cannot be suggested: it wants a short {SUGGESTIBLE[key].__name__}")
    return text


def read(suggestions: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what may be taken of what a stranger suggests, and the keys of what may not."""
    taken: dict[str, Any] = {}
    for key in sorted(suggestions)[:MAX_SUGGESTIONS]:
        value = _parsed(suggestions[key]) if key in SUGGESTIBLE else None
        if value is not None and _fits(key, value):
            taken[key] = value
    return taken, tuple(sorted(set(suggestions) - set(taken)))


def _parsed(text: str) -> Any:
    if len(text) > MAX_SUGGESTION_BYTES:
        return None
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(_word: str) -> None:
    raise ValueError("neither NaN nor Infinity is JSON")


def _fits(key: str, value: object) -> bool:
    kind = SUGGESTIBLE[key]
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
    right = whole if kind is int else isinstance(value, kind) or (kind is float and whole)
    return right and _is_shallow(value, _DEPTH)


def _is_shallow(value: object, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inner)
