"""What the commands are given: flags that lie over a file, and files of either kind."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ...protocol.settings import load, pairs
from ..config import NodeConfig, SimulationConfig

Sets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the file, such as publish.density=0.05."),
]


def overrides(
    flags: Mapping[str, object], sets: Sequence[str] | None = None, arguments: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what lies over a file, by dotted key: flags that were given, then --task-arg, then --set."""
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in pairs("--task-arg", arguments).items():
        given[f"task.arguments.{key}"] = value
    return given | pairs("--set", sets)


def load_any(path: Path, over: Mapping[str, Any]) -> NodeConfig | SimulationConfig:
    """Read a node's or a simulation's file: the table [simulation] tells which. Raises ConfigError."""
    return load(SimulationConfig, path, over) if _is_simulation(path) else load(NodeConfig, path, over)


def _is_simulation(path: Path) -> bool:
    try:
        return "simulation" in tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return False  # `load` says what is wrong
