from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from peermerge.coordinator.cli import main
from peermerge.protocol.exit_codes import ExitCode

from .worlds import calling, claim, coordinator

WITHOUT_TORCH = """
import sys
from peermerge.coordinator import cli, server
sys.exit("torch was loaded" if "torch" in sys.modules else 0)
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def run(*arguments: str) -> Outcome:
    """Run one command line to its end; tables get a wide terminal."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["peermerge-coordinator", *arguments]),
        patch.dict("os.environ", {"COLUMNS": "160", "NO_COLOR": "1"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Outcome(code, out.getvalue(), " ".join(err.getvalue().split()))


def test_it_starts_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["", "start", "status"])
def test_help_teaches_with_examples(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.code == 0
    assert f"peermerge-coordinator {command or 'start'}" in done.out
    assert "Examples" in done.out


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.code, done.out.split()[0]) == (0, "peermerge-coordinator")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["start", "--listen", "nowhere"], ExitCode.USAGE, "lacks a port"),
        (["start", "--listen", "0.0.0.0:0"], ExitCode.USAGE, "--insecure"),
        (["start", "--suggest", "topology.name"], ExitCode.USAGE, "write key=value"),
        (["start", "--suggest", "task.name=mine:factory"], ExitCode.USAGE, "cannot be suggested"),
        (["start", "--config", "none.toml"], ExitCode.USAGE, "no such file"),
        (["start", "--data-dir", "/dev/null/x"], ExitCode.DATA_DIR, "cannot be used as a data directory"),
        (["start", "--nonsense"], ExitCode.USAGE, "No such option"),
        (["status", "127.0.0.1:1"], ExitCode.PEER, "cannot be reached: check the address, and that the coordinator"),
        (["status", "nowhere"], ExitCode.USAGE, "lacks a port"),
    ],
)
def test_mistakes_have_their_exit_code_and_name_the_cure(arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments)
    assert (done.code, says in done.err) == (code, True), done


async def test_status_shows_who_is_there(tmp_path: Path) -> None:
    async with coordinator(tmp_path, {"topology.name": '"ring"'}) as running, calling(running.address) as caller:
        await caller.join(claim("alice"))
        await caller.beat(claim("bob", 2), round_=7)
        shown = await asyncio.to_thread(run, "status", running.address)
        told = await asyncio.to_thread(run, "status", running.address, "--json")
    assert shown.code == told.code == 0
    for part in ('topology.name = "ring"', "net/run: 2 members", "alice", "127.0.0.1:2", "alive", "7"):
        assert part in shown.out
    members = json.loads(told.out)["meshes"][0]["members"]
    assert [each["member"]["name"] for each in members] == ["alice", "bob"]


async def test_status_of_an_empty_coordinator_says_so(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        shown = await asyncio.to_thread(run, "status", running.address)
    assert "nobody has joined" in shown.out
