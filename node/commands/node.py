"""`peermerge node`: run a node on this machine, or write its configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...protocol.errors import ConfigError
from ..config import NodeConfig, load
from .inputs import Sets, overrides


def start(
    config: Annotated[Path | None, typer.Option(help="The node's TOML file; without one, all defaults.")] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 is any.")] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="What peers dial, where it is not what we listen on.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A node to greet; repeat for more. One is enough.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Log, replicas, checkpoints and events of this node.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--fresh", help="Demand a run in the data directory to go on with; or wipe it."),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow plain text beyond this machine: trusted networks only.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve a Prometheus page there.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="A built-in task, or module:factory of your own.")
    ] = None,
    task_arg: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An argument of the task.")] = None,
    sets: Sets = None,
    name: Annotated[str | None, typer.Option(help="This node's name, unique in the network.")] = None,
) -> None:
    """Run a node until its schedule ends; Ctrl-C saves and leaves, a second one stops at once."""
    flags = {
        "node.listen": listen,
        "node.advertise": advertise,
        "membership.peers": peer or None,
        "node.data_dir": data_dir,
        "node.insecure": insecure,
        "node.metrics": metrics,
        "task.name": task,
        "node.name": name,
    }
    chosen = load(NodeConfig, config, overrides(flags, sets, task_arg))
    from ..daemon import start as run

    raise typer.Exit(run(chosen, "auto" if resume is None else "resume" if resume else "fresh"))


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("node.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a node.toml that states and explains every key with its default."""
    from ..template import template

    try:
        with file.open("w" if force else "x") as out:
            out.write(template(NodeConfig))
    except FileExistsError:
        raise ConfigError(f"{file} is there already: choose another name, or overwrite it with --force") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {file}; edit it, then: peermerge node start --config {file}")
