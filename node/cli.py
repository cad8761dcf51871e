"""The command `peermerge`: which commands there are, and what an error looks like. Starts without torch."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from ..protocol.errors import PeermergeError
from .commands import config, control, delta, doctor, export, merge, methods, node, plan, simulate, status
from .commands.output import complain
from .commands.texts import DESCRIPTIONS, EXAMPLES
from .exit_codes import ExitCode, exit_code

DEBUG = "PEERMERGE_DEBUG"
BUG = (
    "This is a bug in Peermerge. Please open an issue where you got it from, "
    f"with the command, the file it read and what it prints under {DEBUG}=1."
)


def _group(name: str | None) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=DESCRIPTIONS[name or ""],
        epilog=EXAMPLES[name or ""],
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


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


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"peermerge {version('peermerge')}")
        raise typer.Exit


@app.callback()
def peermerge(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks of errors, as {DEBUG}=1 does.")] = False,
) -> None:
    """Take the options that stand before the command."""
    if debug:
        # In the environment, so that the processes a command starts are told too.
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command line; every error becomes one message and the exit code of its kind."""
    try:
        app(prog_name="peermerge")
    except PeermergeError as error:
        _trace(error)
        complain(str(error))
        sys.exit(exit_code(error))
    except Exception as error:
        _trace(error)
        complain(f"{type(error).__name__}: {error}\n{BUG}")
        sys.exit(ExitCode.BUG)


def _trace(error: Exception) -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error)


if __name__ == "__main__":
    main()
