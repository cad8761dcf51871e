"""`peermerge export`: from a node's data directory to a file that any tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...protocol.errors import ConfigError
from ...protocol.output import plain


def export(
    data_dir: Annotated[Path, typer.Argument(help="The data directory of a node that has started.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The safetensors file to write.")],
    mean: Annotated[bool, typer.Option("--mean", help="Average with the neighbours, as this node knows them.")] = False,
) -> None:
    """Write a node's model as a safetensors file with the names of its state dict; it may be running."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    from ..export import export as write

    for key, value in write(data_dir, out, mean=mean).items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        typer.echo(f"{key}: {plain(text)}")
