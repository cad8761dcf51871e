"""`peermerge delta`: a base and a fine-tune to a small file, and back."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from ...protocol.output import listed, plain, size
from ..config import PublishConfig, parse
from .merge import interruptible, resumable
from .progress import bytes_bar

Base = Annotated[Path, typer.Option(metavar="PATH", help="The model that the fine-tune started from.")]
ShardSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Split a folder's weights, such as 5GB. Default: like the base's.")
]
UNBOUNDED: Final = 1 << 16
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def encode(
    tuned: Annotated[Path, typer.Argument(metavar="FINETUNE", help="A safetensors file, or a folder.")],
    base: Base,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The delta file to write, such as x.pmd.")],
    density: Annotated[float | None, typer.Option(help="Keep this share of the entries, the largest.")] = None,
    bits: Annotated[float | None, typer.Option(help="Bits per parameter.")] = None,
    relative_error: Annotated[
        float | None, typer.Option(help="Share of the change's squared norm that may be lost.")
    ] = None,
    json: Json = False,
) -> None:
    """Write what leads from a base to a fine-tune: every bit of it, or within a budget.

    Without a budget the file gives back the very bits of bfloat16, float16 and float32 fine-tunes. Tensors that cannot
    be a change of the base's (other shapes, integers, none there) and changed files of the folder stand in it whole.
    Memory: a few times the largest tensor in float32.
    """
    budgets = {"density": density, "bits": bits, "relative_error": relative_error}
    given = {key: value for key, value in budgets.items() if value is not None}
    publish = parse(PublishConfig, given | {"selection": "tensor"}, "the command line") if given else None
    from ..checkpoints.encoding import encode as write
    from ..checkpoints.reading import Checkpoint

    with (
        Checkpoint.open(base) as before,
        Checkpoint.open(tuned) as after,
        interruptible("nothing was written"),
        bytes_bar(Console(stderr=True), "encoding") as bar,
    ):
        bar.started(sum(tensor.nbytes for tensor in after.tensors.values()))
        done = write(before, after, out, publish, told=bar.told)
    if json:
        typer.echo(jsons.dumps(asdict(done), indent=1))
        return
    ratio = f", {done.model_bytes / done.bytes:.3g} x smaller than the model" if done.bytes else ""
    typer.echo(f"{plain(done.file)}: {size(done.bytes)}{ratio}")
    typer.echo(f"{done.tensors} tensors, {done.unchanged} of them unchanged; {done.entries:,} entries")
    typer.echo("gives back the fine-tune bit for bit" if publish is None else _lost(done.budget, done.left))
    for what, names in (("whole", done.whole), ("not in the fine-tune", done.absent), ("files", done.files)):
        if names:
            typer.echo(plain(listed(what, names)))


def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A delta file.")],
    base: Base,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="A .safetensors file, or a folder to be made.")
    ],
    shard_size: ShardSize = None,
    json: Json = False,
) -> None:
    """Write the fine-tune that a delta file was made from; refuses any other base than its own.

    Interrupted, the same command goes on where it stopped.
    """
    from ..checkpoints.applying import apply as write
    from ..checkpoints.delta_file import DeltaFile
    from ..checkpoints.layout import parse_size
    from ..checkpoints.reading import Checkpoint

    shard_bytes = None if shard_size is None else parse_size(shard_size)
    with Checkpoint.open(base) as before, DeltaFile(file, before) as delta:
        with resumable(out), bytes_bar(Console(stderr=True), "applying") as bar:
            bar.started(sum(tensor.nbytes for tensor in delta.tensors.values()))
            done = write(delta, out, shard_bytes=shard_bytes, told=bar.told)
        lost = "the fine-tune bit for bit" if done.exact else _lost(delta.index.budget, delta.index.left)
    if json:
        typer.echo(jsons.dumps(asdict(done), indent=1))
        return
    typer.echo(f"{plain(done.out)}: {done.tensors} tensors, {lost}")
    for what, names in (("not from the base", done.whole), ("left out as in the fine-tune", done.absent)):
        if names:
            typer.echo(plain(listed(what, names)))


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A delta file.")],
    json: Json = False,
) -> None:
    """Show what a delta file holds, tensor by tensor; needs no base."""
    from ..checkpoints.delta_index import read_index

    index = read_index(file)
    if json:
        typer.echo(index.model_dump_json(indent=1))
        return
    total = sum(record.described.nbytes for record in index.tensors)
    typer.echo(f"{plain(str(file))}: {size(file.stat().st_size)} for a model of {size(total)}")
    typer.echo(f"base {index.base_digest}, " + (index.budget if not index.left else _lost(index.budget, index.left)))
    table = Table(box=None, header_style="cyan", pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for column in ("type", "shape", "bytes", "entries", "patches", "kind"):
        table.add_column(column, justify="right" if column in ("bytes", "entries", "patches") else "left")
    for record in index.tensors:
        spent = size(sum(span.size for span in record.spans))
        kind = "whole" if record.raw else "changed" if record.spans else "unchanged"
        shape = "x".join(map(str, record.shape)) or "scalar"
        counts = f"{record.entries:,}", f"{record.patched:,}"
        table.add_row(plain(record.name), record.dtype, shape, spent, *counts, kind)
    # Without a terminal there is no width to keep to, and names are there to be searched for.
    Console(highlight=False, width=None if Console().is_terminal else UNBOUNDED).print(table)
    for carried in index.files:
        typer.echo(f"file: {carried.name}, {size(carried.data.size)}")


def _lost(budget: str, left: float) -> str:
    return f"{budget}: {left:.3%} of the change's squared norm is lost"
