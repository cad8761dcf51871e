"""The command `peermerge`: which commands there are, and what an error looks like. Starts without torch."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..protocol.command import DEBUG, group, run, version_printer
from .commands import config, control, delta, doctor, export, merge, methods, node, plan, simulate, status
from .commands.texts import DESCRIPTIONS, EXAMPLES


def _group(name: str | None) -> typer.Typer:
    return group(name, DESCRIPTIONS[name or ""], EXAMPLES[name or ""])


app = _group(None)
nodes = _group("node")
configs = _group("config")
deltas = _group("delta")

nodes.command("start", epilog=EXAMPLES["node start"])(node.start)
nodes.command("init", epilog=EXAMPLES["node init"])(node.init)
configs.command("check", epilog=EXAMPLES["config check"])(config.check)
deltas.command("encode", epilog=EXAMPLES["delta encode"])(delta.encode)
deltas.command("apply", epilog=EXAMPLES["delta apply"])(delta.apply)
deltas.command("inspect", epilog=EXAMPLES["delta inspect"])(delta.inspect)
app.add_typer(nodes)
app.command("status", epilog=EXAMPLES["status"])(status.status)
app.command("control", epilog=EXAMPLES["control"])(control.control)
app.command("export", epilog=EXAMPLES["export"])(export.export)
app.command("simulate", epilog=EXAMPLES["simulate"])(simulate.simulate)
app.command("plan", epilog=EXAMPLES["plan"])(plan.plan)
app.command("merge", epilog=EXAMPLES["merge"])(merge.merge)
app.command("methods", epilog=EXAMPLES["methods"])(methods.methods)
app.add_typer(deltas)
app.add_typer(configs)
app.command("doctor", epilog=EXAMPLES["doctor"])(doctor.doctor)


@app.callback()
def peermerge(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("peermerge"), is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks of errors, as {DEBUG}=1 does.")] = False,
) -> None:
    """Take the options that stand before the command."""
    if debug:
        # In the environment, so that the processes a command starts are told too.
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command line."""
    run(app, "peermerge")


if __name__ == "__main__":
    main()
