"""`peermerge methods`: which merge methods there are, and what each does."""

from __future__ import annotations

import inspect
import json as jsons
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.text import Text

FAMILIES: Final = {
    "weighted-mean": "Means",
    "ties": "Elections",
    "breadcrumbs": "Cuts and masks",
    "slerp": "Spheres and averages",
    "tsvm": "Subspaces",
    "fisher": "Statistics",
    "clip": "Robust rules",
    "lines": "Steps after a method",
}
"""The families by the first of each, in the order of the tables."""


def methods(
    name: Annotated[str | None, typer.Argument(help="One of ours, or an alias such as mergekit:ties.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list, or one object for a name.")] = False,
) -> None:
    """List the merge methods by family and the steps after them; with a name, all that is known of it.

    scope: what one call sees with the defaults, one tensor or all of them. needs: the base, or statistics of the
    models.
    """
    from ..checkpoints.known import unknown
    from ..merging import METHODS, STEPS
    from ..merging.aliases import ALIASES

    family, found = "", []
    for key, kind in {**METHODS, **STEPS}.items():
        family = FAMILIES.get(key, family)
        found.append({"family": family, **about(key, kind)})
    if name is None:
        typer.echo(jsons.dumps(found, indent=1)) if json else _list(found)
        return
    alias = ALIASES.get(name)
    key = name if alias is None else alias.method
    one = next((entry for entry in found if entry["name"] == key), None)
    if one is None:
        raise unknown(name, [*METHODS, *STEPS])
    if alias is not None:
        one |= {"alias": name, "fixed": dict(alias.parameters), "names": dict(alias.names)}
    typer.echo(jsons.dumps(one, indent=1)) if json else _one(one)


def about(name: str, kind: Any) -> dict[str, Any]:
    """Return what is known of a method or a step."""
    from ..merging import METHODS
    from ..merging.aliases import ALIASES

    text = inspect.cleandoc(kind.__doc__ or "")
    types = get_type_hints(kind)
    return {
        "name": name,
        "kind": "method" if name in METHODS else "step",
        "summary": text.split("\n\n")[0].replace("\n", " "),
        "text": text,
        "scope": _said(kind, "scope", "tensor"),
        "needs": sorted(_said(kind, "needs", ())),
        "sparse": _said(kind, "sparse", False),
        "parameters": {f.name: None if f.default is MISSING else f.default for f in fields(kind) if f.init},
        "choices": {key: found for key, hint in types.items() if (found := choices(hint))},
        "aliases": sorted(alias for alias, known in ALIASES.items() if known.method == name),
    }


def choices(hint: Any) -> list[object]:
    """Return the values that a parameter of this type is chosen from, none where any will do.

    >>> choices(Literal["paper", "official"])
    ['paper', 'official']
    """
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    several = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return [choice for one in several for choice in choices(one)]


def _said(kind: Any, key: str, absent: Any) -> Any:
    """Return what a method with its defaults says of itself: parameters may change it, and some have no default."""
    required = any(f.init and f.default is MISSING and f.default_factory is MISSING for f in fields(kind))
    value = getattr(kind if required else kind(), key, absent)
    return absent if isinstance(value, property) else value


def _list(found: list[dict[str, Any]]) -> None:
    """Print one line each, cut at the edge of a terminal and whole elsewhere."""
    console = Console(highlight=False)
    columns = ("name", "scope", "needs", "summary")
    rows = [{**one, "needs": ", ".join(one["needs"]) or "-"} for one in found]
    widths = [max(len(row[column]) for row in rows) for column in columns[:-1]]
    family = ""
    for row in rows:
        if row["family"] != family:
            console.print(Text(("\n" if family else "") + row["family"], style="cyan"))
            family = row["family"]
        cells = [row[column].ljust(width) for column, width in zip(columns, [*widths, 0], strict=True)]
        line = Text("  " + "  ".join(cells))
        if console.is_terminal:
            line.truncate(console.width, overflow="ellipsis")
        console.print(line, soft_wrap=True)


def _one(one: Mapping[str, Any]) -> None:
    lines = [f"{one['name']} ({one['kind']})", "", one["text"], ""]
    for key, value in one["parameters"].items():
        known = one["choices"].get(key)
        lines.append(f"  {key} = {value!r}" + (f" (choose from {', '.join(map(repr, known))})" if known else ""))
    lines += [f"scope: {one['scope']}", f"needs: {', '.join(one['needs']) or 'nothing'}"]
    lines += [f"sparse inputs are merged {'by entries' if one['sparse'] else 'as whole tensors'}"]
    if one["aliases"]:
        lines.append(f"aliases: {', '.join(one['aliases'])}")
    if "alias" in one:
        fixed = ", ".join(f"{key} = {value!r}" for key, value in one["fixed"].items())
        names = ", ".join(f"{theirs} is {ours}" for theirs, ours in one["names"].items())
        lines.append(f"{one['alias']}: {'; '.join(filter(None, [fixed, names])) or 'the same with defaults'}")
    typer.echo("\n".join(lines))
