"""Pages say what the code does: tables are current, commands and links exist, quoted errors are real."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from peermerge.node.checkpoints.recipe import read_recipe
from peermerge.node.cli import app
from peermerge.node.config import NodeConfig, load

from .pages import PAGES, ROOT, anchors, blocks, commands

TOML = [block for page in PAGES for block in blocks(page, "toml")]
COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


def options(words: list[str]) -> set[str]:
    """Return the options that the command at the start of these words takes; fail if there is no such command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, f"no command {word}"
        command = command.commands[word]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_reference_is_what_the_code_says() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    text = (ROOT / "docs" / "reference.md").read_text()
    assert generate["generated"](text) == text, "run: python docs/generate.py"
    assert all(f"<!-- generated: {part} -->" in text for part in generate["PARTS"])


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_commands_on_pages_exist_with_their_options(page: Path, line: str) -> None:
    words = shlex.split(line.replace("[OPTIONS]", ""))[1:]
    known = options(words)
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known, f"{page.name}: {given - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("block", TOML, ids=range(len(TOML)))
def test_configuration_on_pages_is_valid(block: str, tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text(block)
    if "[[models]]" in block:
        read_recipe(tmp_path / "page.toml")
    else:
        load(NodeConfig, tmp_path / "page.toml", {})


def test_quoted_errors_are_what_the_code_prints() -> None:
    table = (ROOT / "docs" / "how-to.md").read_text().partition("| message |")[2]
    quoted = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    code = "\n".join(
        path.read_text() for folder in ("node", "protocol", "coordinator") for path in (ROOT / folder).rglob("*.py")
    )
    assert len(quoted) > 15
    assert [text for text in quoted if text not in code] == []
