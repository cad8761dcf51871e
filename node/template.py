"""A configuration file with every key, its default and its meaning, written from the models of `config.py`.

What the models say is what the file says, so that it can never drift: names and defaults are their fields,
comments their docstrings, choices their types.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

WIDTH = 100
INTRODUCTION = "All keys with their defaults: change some, delete the rest. `peermerge config check` finds mistakes."


def template(model: type[BaseModel]) -> str:
    """Return TOML that parses to the model's defaults; keys without a default value are commented out."""
    return "\n".join([*_comment(f"{inspect.cleandoc(model.__doc__ or '')} {INTRODUCTION}"), *_table(model, ""), ""])


def toml(value: object) -> str:
    """Write a value of a configuration as TOML; raises TypeError for what is none."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_text(k)} = {toml(v)}' for k, v in value.items())}}}"
    raise TypeError(f"a {type(value).__name__} is nothing that TOML holds")


def _text(value: str) -> str:
    # JSON's escapes are TOML's but for characters beyond 16 bits, left as they are, and for DEL, which TOML escapes.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the lines of a table: its own keys first, as TOML wants it, then the tables within."""
    inner = {name: field for name, field in model.model_fields.items() if isinstance(field.default, BaseModel)}
    for name, field in model.model_fields.items():
        if name not in inner:
            yield from _key(name, field, docstrings_of(model).get(name, ""))
    for name, field in inner.items():
        yield ""
        yield from _comment(inspect.cleandoc(type(field.default).__doc__ or ""))
        yield f"[{prefix}{name}]"
        yield from _table(type(field.default), f"{prefix}{name}.")


def _key(name: str, field: FieldInfo, meaning: str) -> Iterator[str]:
    choices = choices_of(field.annotation)
    yield from _comment(" ".join(filter(None, [meaning, choices and f"One of {choices}."])))
    yield f"# {name} =" if field.default is None else f"{name} = {toml(field.default)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def choices_of(kind: Any) -> str:
    """Name what may stand in place of the default, where the type lists it: literals, perhaps besides numbers."""
    if get_origin(kind) is Literal:
        return ", ".join(map(toml, get_args(kind)))
    if get_origin(kind) not in (Union, UnionType):
        return ""
    literals = ", ".join(filter(None, map(choices_of, get_args(kind))))
    return f"{literals}, or a number" if literals else ""


@cache
def docstrings_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field, of this class and those it extends; Python itself does not keep them."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind.__module__ != model.__module__:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in pairwise(statements):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    found[name] = inspect.cleandoc(meaning)
    return found
