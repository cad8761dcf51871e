"""`peermerge methods`: which merge methods there are, and what each does."""

from __future__ import annotations

import inspect
import json as jsons
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...protocol.errors import ConfigError
from ..registry import nearest


def methods(
    name: Annotated[str | None, typer.Argument(help="One of ours, or an alias such as mergekit:ties.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list, or one object for a name.")] = False,
) -> None:
    """List the merge methods and the steps after them; with a name, all that is known of it.

    scope: what one call sees with the defaults, one tensor or all of them. needs: the base, or statistics of the
    models.
    """
    from ..merging import METHODS, STEPS
    from ..merging.aliases import ALIASES

    found = [about(key, kind) for key, kind in {**METHODS, **STEPS}.items()]
    if name is None:
        typer.echo(jsons.dumps(found, indent=1)) if json else _list(found)
        return
    alias = ALIASES.get(name)
    key = name if alias is None else alias.method
    one = next((entry for entry in found if entry["name"] == key), None)
    if one is None:
        raise ConfigError(f"unknown merge method {name!r}: {nearest(name, [*METHODS, *STEPS, *ALIASES])}")
    if alias is not None:
        one |= {"alias": name, "fixed": dict(alias.parameters), "names": dict(alias.names)}
    typer.echo(jsons.dumps(one, indent=1)) if json else _one(one)


def about(name: str, kind: Any) -> dict[str, Any]:
    """Return what is known of a method or a step."""
    from ..merging import METHODS
    from ..merging.aliases import ALIASES

    text = inspect.cleandoc(kind.__doc__ or "")
    return {
        "name": name,
        "kind": "method" if name in METHODS else "step",
        "summary": text.split("\n\n")[0].replace("\n", " "),
        "text": text,
        "scope": _said(kind, "scope", "tensor"),
        "needs": sorted(_said(kind, "needs", ())),
        "sparse": _said(kind, "sparse", False),
        "parameters": {f.name: None if f.default is MISSING else f.default for f in fields(kind) if f.init},
        "aliases": sorted(alias for alias, known in ALIASES.items() if known.method == name),
    }


def _said(kind: Any, key: str, absent: Any) -> Any:
    """Return what a method with its defaults says of itself: parameters may change it, and some have no default."""
    required = any(f.init and f.default is MISSING and f.default_factory is MISSING for f in fields(kind))
    value = getattr(kind if required else kind(), key, absent)
    return absent if isinstance(value, property) else value


def _list(found: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, header_style="cyan", pad_edge=False)
    for column in ("method", "scope", "needs", "what it does"):
        table.add_column(column, no_wrap=column == "method")
    for one in found:
        step = " (step)" if one["kind"] == "step" else ""
        table.add_row(Text(one["name"] + step), one["scope"], ", ".join(one["needs"]), Text(one["summary"]))
    console.print(table)


def _one(one: Mapping[str, Any]) -> None:
    lines = [f"{one['name']} ({one['kind']})", "", one["text"], ""]
    lines += [f"  {key} = {value!r}" for key, value in one["parameters"].items()]
    lines += [f"scope: {one['scope']}", f"needs: {', '.join(one['needs']) or 'nothing'}"]
    lines += [f"sparse inputs are merged {'by entries' if one['sparse'] else 'as whole tensors'}"]
    if one["aliases"]:
        lines.append(f"aliases: {', '.join(one['aliases'])}")
    if "alias" in one:
        fixed = ", ".join(f"{key} = {value!r}" for key, value in one["fixed"].items())
        names = ", ".join(f"{theirs} is {ours}" for theirs, ours in one["names"].items())
        lines.append(f"{one['alias']}: {'; '.join(filter(None, [fixed, names])) or 'the same with defaults'}")
    typer.echo("\n".join(lines))
