"""What the commands have in common: `--version`, and one message and one exit code for every error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version

import typer
from rich.markup import escape

from .errors import PeermergeError
from .exit_codes import ExitCode, exit_code
from .output import complain

DEBUG = "PEERMERGE_DEBUG"
BUG = (
    "This is a bug in Peermerge. Please open an issue where you got it from, "
    f"with the command, the file it read and what it prints under {DEBUG}=1."
)


def examples(*lines: str) -> str:
    """Lay out command lines so that rich keeps one line each."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"$ {escape(line)}" for line in lines)])


def group(name: str | None, description: str, epilog: str) -> typer.Typer:
    """Return a command made of commands, with its help page."""
    return typer.Typer(
        name=name,
        help=description,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def version_printer(program: str) -> Callable[[bool], None]:
    """Return what the option `--version` of a program calls."""

    def tell(asked: bool) -> None:
        if asked:
            typer.echo(f"{program} {version('peermerge')}")
            raise typer.Exit

    return tell


def run(app: typer.Typer, program: str) -> None:
    """Run a command line; every error becomes one message and the exit code of its kind."""
    try:
        app(prog_name=program)
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
