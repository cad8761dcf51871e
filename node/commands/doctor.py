"""`peermerge doctor`: whether this machine can run a node, line by line."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ...protocol.exit_codes import ExitCode
from .checks import CHECKS, Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list of findings.")] = False,
) -> None:
    """Check this machine: versions, GPU, a gRPC round trip, durable writes, free space. Exit code 1 if one fails."""
    console = Console(highlight=False)
    findings = []
    for check in CHECKS:
        findings.append(check())
        if not json:
            console.print(line(findings[-1]), soft_wrap=True)
    if json:
        typer.echo(jsons.dumps([asdict(finding) for finding in findings], indent=1))
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(ExitCode.BUG)


def line(finding: Finding) -> Text:
    """Return a finding as one line, with its cure behind an arrow."""
    cure = f" -> {finding.cure}" if finding.cure else ""
    return Text.assemble(
        (f"{finding.level:4}", STYLES[finding.level]), f"  {finding.name:9} ", finding.text, (cure, "bold")
    )
