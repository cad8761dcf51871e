"""Write plain data as TOML: what Python's standard library reads but does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(data: Mapping[str, Any], table: str = "") -> str:
    """Return a TOML document; keys whose value is None are left out. Raises TypeError for what TOML cannot say."""
    plain = {k: v for k, v in data.items() if v is not None and not isinstance(v, Mapping)}
    lines = [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    parts = ["\n".join([f"[{table}]", *lines] if table else lines)] if lines or table else []
    for key, value in data.items():
        if isinstance(value, Mapping):
            parts.append(dumps(value, f"{table}.{_key(key)}" if table else _key(key)).rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items() if v is not None)}}}"
    raise TypeError(f"a {type(value).__name__} has no place in TOML")


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped, and surrogates, which only JSON writes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
