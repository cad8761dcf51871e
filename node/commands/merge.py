"""`peermerge merge`: the merge methods on files, without a network."""

from __future__ import annotations

import json as jsons
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ...protocol.errors import ConfigError
from ...protocol.exit_codes import ExitCode
from ...protocol.output import complain, listed, plain
from ...protocol.settings import pairs
from ..config import parse
from .progress import bytes_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..checkpoints.merging import Report
    from ..checkpoints.recipe import Recipe

RECIPES = {".toml", ".yaml", ".yml"}


def merge(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODELS...",
            help="Files, folders or delta files in the order that counts; or a recipe: TOML, or mergekit's YAML.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="A .safetensors file, or a folder to be made.")
    ],
    base: Annotated[Path | None, typer.Option(metavar="PATH", help="The model that the others started from.")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="See `peermerge methods`. Default: weighted-mean.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the method.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="LIST", help="One number per model, such as 1,2,0.5. Default: 1 each.")
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="A step after the method, such as lines or lines:beta=0.5.")
    ] = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=FILE",
            help="What was measured of the models, such as fisher: a file with their names, once per model.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="bfloat16 (bf16), float16 (fp16), float32 (fp32). Default: each tensor's in the base."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For methods that draw.")] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            metavar="error|tied|base|skip",
            help="Where a model lacks a tensor: stop (the default), take its copy of the tied one, take the base's for "
            "it, or merge the models that have it.",
        ),
    ] = None,
    extra: Annotated[
        str | None,
        typer.Option(
            metavar="error|drop", help="Where the base lacks a model's tensor: stop (the default), or leave it out."
        ),
    ] = None,
    integers: Annotated[
        str | None,
        typer.Option(
            metavar="error|base", help="Where integers or quantised weights differ: stop (the default), or the base's."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Take the base's for tensors of such names.")
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Split weights, such as 5GB. Default: like the base's."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Merge models that lie in files: safetensors, folders as Hugging Face has them, delta files, or a recipe.

    A recipe is a TOML file of ours, or mergekit's YAML. Without --base the models are merged as they are, and the first
    decides names, types and configuration.

    Weights stream tensor by tensor, in float32 with one cast at the end. Memory: 4 bytes x the largest tensor x
    (models + 2), besides what the method takes; methods that look at all tensors at once: of the whole model.
    Interrupted, the same command goes on where it stopped. A folder gets the base's configuration and tokenizer,
    and peermerge.json, which says what became of every tensor that was not merged.
    """
    # Before torch loads: its threads would spin between the short steps of a merge, at the cost of all other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    flags = {
        "base": base,
        "method": method,
        "parameters": pairs("--set", sets) or None,
        "after": [step(text) for text in after or ()] or None,
        "statistics": measured(statistics) or None,
        "dtype": dtype,
        "seed": seed,
        "missing": missing,
        "extra": extra,
        "integers": integers,
        "ignore": ignore,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    recipe, notices = _recipe(inputs, weights, given)
    from ..checkpoints.layout import parse_size
    from ..checkpoints.merging import merge as run

    shard_bytes = None if shard_size is None else parse_size(shard_size)
    console = Console(stderr=True, highlight=False)
    for notice in notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)
    with resumable(out), bytes_bar(console, "merging") as bar:
        report = run(recipe, out, shard_bytes=shard_bytes, device=device, started=bar.started, told=bar.told)
    if json:
        from dataclasses import asdict

        typer.echo(jsons.dumps(asdict(report), indent=1))
    else:
        _show(report)


def step(text: str) -> dict[str, Any]:
    """Read `name:key=value,key=value`.

    >>> step("lines:beta=0.5")
    {'step': 'lines', 'beta': 0.5}
    """
    name, _, rest = text.partition(":")
    return {"step": name} | pairs("--after", rest.split(",") if rest else ())


def measured(texts: list[str] | None) -> dict[str, list[str]]:
    """Gather the `kind=file` texts of a repeated option by kind, in order."""
    found: dict[str, list[str]] = {}
    for text in texts or ():
        kind, equals, file = text.partition("=")
        if not kind or not equals or not file:
            raise ConfigError(f"--statistics {text!r}: write KIND=FILE, such as fisher=a-fisher.safetensors")
        found.setdefault(kind, []).append(file)
    return found


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Turn an interruption into advice."""
    with interruptible(f"{out}.partial keeps what is done: the same command goes on from there"):
        yield


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Turn an interruption into a line that says what is left of the work."""
    try:
        yield
    except KeyboardInterrupt:
        complain(f"interrupted; {advice}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _recipe(inputs: list[Path], weights: str | None, given: dict[str, Any]) -> tuple[Recipe, list[str]]:
    """Return the recipe of a file or of the command line, and what is to be noted about it."""
    from ..checkpoints.recipe import Recipe, read_recipe

    if len(inputs) == 1 and inputs[0].suffix in RECIPES:
        if given or weights is not None:
            named = "--set" if "parameters" in given else f"--{next(iter(given), 'weights')}"
            raise ConfigError(f"{named} stands beside a recipe: write it into {inputs[0]}")
        return read_recipe(inputs[0])
    numbers = ["1"] * len(inputs) if weights is None else weights.split(",")
    if len(numbers) != len(inputs):
        raise ConfigError(f"--weights {weights}: {len(numbers)} numbers for {len(inputs)} models")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise ConfigError(f"--weights {weights}: write numbers such as 1,2,0.5") from None
    if not all(map(math.isfinite, values)):
        raise ConfigError(f"--weights {weights}: write finite numbers such as 1,2,0.5")
    models = [{"path": path, "weight": value} for path, value in zip(inputs, values, strict=True)]
    recipe = parse(Recipe, {**given, "models": models}, "the command line")
    plain_weights = f"{recipe.method} merges the weights themselves, as there is no --base that they changed from"
    return recipe, [plain_weights] if recipe.base is None and recipe.method != "weighted-mean" else []


def _show(report: Report) -> None:
    sparse = f", {report.sparse} of them by entries" if report.sparse else ""
    resumed = f", {report.resumed} found from an earlier run" if report.resumed else ""
    lines = [f"{report.out}: {report.merged} tensors merged{sparse}{resumed}"]
    if "base" not in report.recipe:
        lines.append(f"names, types and configuration: as in {report.ground}, the first model, as there is no --base")
    reasons = sorted(set(report.kept.values()))
    ground = "the base" if "base" in report.recipe else report.ground
    lines += [listed(f"as in {ground} ({why})", [n for n, w in report.kept.items() if w == why]) for why in reasons]
    lines += [listed(f"missing in {model}", names) for model, names in report.missing.items()]
    lines += [listed(f"tied in {model}", list(names)) for model, names in report.tied.items()]
    lines += [listed(f"left out of {model}", names) for model, names in report.dropped.items()]
    if report.repeated:
        twins = [f"{name} as {first}" for name, first in report.repeated.items()]
        lines.append(listed("merged once and written twice, as they are tied", twins))
    if report.left_behind:
        lines.append(listed("not carried along", report.left_behind))
    if report.files:
        lines.append(listed("carried along", list(report.files)))
    console = Console(highlight=False)
    for line in lines:
        console.print(plain(line), markup=False, soft_wrap=True)
