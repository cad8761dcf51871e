"""What the benchmark scripts share: their flags, their table, their JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ERR = Console(stderr=True)
"""Progress goes here: standard output is for the table."""


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer and shorter runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write flat figures here")
    return parser


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row))
    Console(width=140).print(table)


def write(path: Path | None, figures: dict[str, float | int | str]) -> None:
    """Write the flat figures, with the versions they were made with."""
    if path is not None:
        made = {"python": platform.python_version(), "torch": torch.__version__, "cpus": _cpus()}
        path.write_text(json.dumps(figures | made, indent=1) + "\n")


def _cpus() -> int:
    return os.cpu_count() or 1
