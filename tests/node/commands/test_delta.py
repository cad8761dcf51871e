from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from .command_line import run


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Write a base and a fine-tune, and name a delta file."""
    base, fine = tmp_path / "base.safetensors", tmp_path / "fine.safetensors"
    weight = torch.arange(4096).reshape(64, 64) / 4096
    save_file({"w": weight, "steps": torch.tensor(1)}, base)
    moved = weight + torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 1e-3
    save_file({"w": moved, "steps": torch.tensor(2)}, fine)
    return str(base), str(fine), str(tmp_path / "x.pmd")


def test_a_fine_tune_goes_through_a_file(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, fine, out = files
    done = run("delta", "encode", "--base", base, fine, "-o", out)
    assert done.code == 0
    assert "gives back the fine-tune bit for bit" in done.out
    assert "whole: steps" in done.out
    again = tmp_path / "again.safetensors"
    done = run("delta", "apply", "--base", base, out, "-o", str(again))
    assert done.out == f"{again}: 2 tensors, the fine-tune bit for bit\nnot from the base: steps\n"
    for name, tensor in load_file(fine).items():
        assert torch.equal(load_file(again)[name], tensor)


def test_a_budget_says_what_is_lost(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, fine, out = files
    told = json.loads(run("delta", "encode", "--base", base, fine, "-o", out, "--density", "0.1", "--json").out)
    assert told["entries"] == pytest.approx(410, abs=2)
    assert 0.3 < told["left"] < 0.7
    lost = f"density = 0.1: {told['left']:.3%} of the change's squared norm is lost"
    assert lost in run("delta", "inspect", out).out
    assert lost in run("delta", "apply", "--base", base, out, "-o", str(tmp_path / "out.safetensors")).out
    inspected = json.loads(run("delta", "inspect", out, "--json").out)
    assert [tensor["name"] for tensor in inspected["tensors"]] == ["steps", "w"]


def test_two_budgets_are_one_too_many(files: tuple[str, str, str]) -> None:
    done = run("delta", "encode", "--base", files[0], files[1], "-o", files[2], "--density", "0.1", "--bits", "1")
    assert done.code == 2
    assert "give one budget" in done.err


def test_what_cannot_be_read_or_written_is_named(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, fine, out = files
    for arguments in (
        ("encode", "--base", base, str(tmp_path / "absent"), "-o", out),
        ("encode", "--base", base, fine, "-o", str(tmp_path / "absent" / "x.pmd")),
        ("apply", "--base", base, str(tmp_path / "absent"), "-o", str(tmp_path / "out")),
        ("inspect", str(tmp_path / "absent")),
        ("inspect", fine),
    ):
        done = run("delta", *arguments)
        assert done.code == 2, arguments
        assert "absent" in done.err or "not a delta file" in done.err


def test_an_interruption_leaves_nothing_and_says_so(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, fine, out = files
    with patch("peermerge.node.commands.progress.BytesBar.told", side_effect=KeyboardInterrupt):
        done = run("delta", "encode", "--base", base, fine, "-o", out)
    assert done.code == 130
    assert "nothing was written" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.safetensors", "fine.safetensors"]


def test_names_are_whole_where_nobody_looks(tmp_path: Path) -> None:
    name = "model.layers.0." + "x" * 300
    base, fine, out = (str(tmp_path / name) for name in ("base.safetensors", "fine.safetensors", "x.pmd"))
    save_file({name: torch.zeros(3)}, base)
    save_file({name: torch.ones(3)}, fine)
    run("delta", "encode", "--base", base, fine, "-o", out)
    assert name in run("delta", "inspect", out).out
