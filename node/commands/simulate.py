"""`peermerge simulate`: many nodes on this machine, beside what they are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ...protocol.errors import ConfigError
from ..config import SimulationConfig, load
from .inputs import Sets, overrides

if TYPE_CHECKING:
    from ..simulation.summary import Summary

OUT = Path("peermerge-out")


def simulate(
    file: Annotated[Path | None, typer.Argument(help="A simulation's TOML; without one, the defaults.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", "-n", min=1, help="How many nodes.")] = None,
    baselines: Annotated[
        str | None, typer.Option(metavar="LIST", help="Some of alone,dense,central, or none: what to compare with.")
    ] = None,
    local_steps: Annotated[int | None, typer.Option(min=0, help="Training steps between two rounds.")] = None,
    topology: Annotated[str | None, typer.Option(metavar="NAME", help="ring, complete, torus, ...")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many rounds.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="A built-in task or your own module:factory.")
    ] = None,
    task_arg: Annotated[
        list[str] | None, typer.Option("--task-arg", metavar="KEY=VALUE", help="An argument of the task.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="memory|grpc", help="One process and virtual time, or real daemons on loopback."),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(metavar="KIND", help="How the data is dealt: iid, classes, or dirichlet:ALPHA.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="The merge method.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of the entries that a node sends a round.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Decides the data's partition, the start, all chances.")
    ] = None,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Play N nodes on this machine and compare them: alone, with dense exchange, with all data in one place.

    DIR gets summary.json, metrics.jsonl and report.html. Exit code 5 means that a node did not finish.
    """
    flags = {
        "simulation.nodes": nodes,
        "simulation.network": network,
        "simulation.baselines": chosen(baselines),
        "schedule.local_steps": local_steps,
        "schedule.rounds": rounds,
        "topology.name": topology,
        "task.name": task,
        "task.arguments.partition": partition,
        "merge.method": method,
        "publish.density": density,
        "seed": seed,
    }
    config = load(SimulationConfig, file, overrides(flags, sets, task_arg))
    from ..simulation.outcome import NodeFailed
    from ..simulation.progress import LiveProgress
    from ..simulation.run import simulate as run

    with LiveProgress(Console(stderr=True)) as progress:
        done = run(config, out, progress)
    if as_json:
        typer.echo(json.dumps(done.summary.to_json(), indent=1))
    else:
        _show(done.summary, out)
    if done.failures:
        raise NodeFailed("\n".join(done.failures))


def chosen(text: str | None) -> list[str] | None:
    """Return the baselines of `alone,dense,central` or `none`; raises ConfigError for an empty list."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return []
    if "" in names:
        raise ConfigError(f"--baselines {text!r}: write some of alone,dense,central, or none")
    return names


def _show(summary: Summary, out: Path) -> None:
    from ..simulation.table import facts, header, rows

    console = Console(highlight=False)
    table = Table(*header(summary), box=None, header_style="cyan", pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(summary):
        table.add_row(*row)
    console.print(table)
    for name, value in facts(summary):
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    console.print(f"results: {out}", markup=False, soft_wrap=True)
