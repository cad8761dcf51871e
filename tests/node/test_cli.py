from __future__ import annotations

import subprocess
import sys

import pytest

from peermerge.node.commands.texts import EXAMPLES
from peermerge.protocol.errors import (
    ConfigError,
    DataDirError,
    DegradedError,
    DivergedError,
    FrameError,
    PeermergeError,
    Refusal,
    TransportError,
)
from peermerge.protocol.exit_codes import ExitCode, exit_code

from .commands.command_line import run

WITHOUT_TORCH = """
import sys
from peermerge.node.cli import main
sys.argv = ["peermerge", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
sys.exit("torch was loaded" if "torch" in sys.modules else 0)
"""
COMMANDS = [
    *("node start", "node init", "config check", "status", "control", "export", "simulate", "plan", "doctor"),
    *("merge", "methods", "delta encode", "delta apply", "delta inspect"),
]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.USAGE),
        (DataDirError("x"), ExitCode.DATA_DIR),
        (DegradedError("x"), ExitCode.DATA_DIR),
        (TransportError(Refusal.TRANSPORT), ExitCode.PEER),
        (FrameError(Refusal.BAD_MAGIC), ExitCode.PEER),
        (DivergedError("x"), ExitCode.FAILED),
        (PeermergeError("x"), ExitCode.FAILED),
    ],
)
def test_every_branch_of_the_error_tree_has_its_exit_code(error: PeermergeError, code: ExitCode) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("command", ["", "node", "config", "delta", *COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself_with_examples(command: str, flag: str) -> None:
    done = run(*command.split(), flag)
    assert done.code == 0
    assert f"Usage: peermerge {command}".strip() in done.out
    assert "$ peermerge" in done.out


def test_examples_are_of_commands_that_exist() -> None:
    assert set(EXAMPLES) == {"", "node", "config", "delta", *COMMANDS}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("node", "start", "-h"), ("status", "127.0.0.1:1"), ("node", "init", "/nowhere/at.all")]
)
def test_what_needs_no_model_does_not_load_torch(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_told() -> None:
    assert run("--version").out.startswith("peermerge 0.")


def test_a_mistyped_command_is_corrected() -> None:
    done = run("stats")
    assert done.code == 2
    assert "status" in done.err


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("peermerge.node.cli.app", fail)


def test_an_unforeseen_error_is_short_and_says_where_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, ZeroDivisionError("oh"))
    monkeypatch.delenv("PEERMERGE_DEBUG", raising=False)
    done = run()
    assert done.code == 1
    assert done.err.startswith("error: ZeroDivisionError: oh\nThis is a bug")
    assert "Traceback" not in done.err


def test_debugging_shows_the_traceback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, ConfigError("key: cure"))
    monkeypatch.setenv("PEERMERGE_DEBUG", "1")
    done = run()
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.endswith("error: key: cure\n")


def test_the_debug_flag_reaches_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERMERGE_DEBUG", "0")
    done = run("--debug", "config", "check", "/nowhere/at.all")
    assert done.code == 2
    assert "Traceback" in done.err


def test_errors_cannot_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, ConfigError("\x1b[2Jgone"))
    assert "\x1b" not in run().err
