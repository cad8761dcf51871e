from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peermerge.node.checkpoints import writing
from peermerge.node.checkpoints.layout import parse_size
from peermerge.node.checkpoints.merging import Report, merge
from peermerge.node.checkpoints.recipe import Recipe
from peermerge.node.config import parse
from peermerge.protocol.errors import ConfigError, DegradedError

from .models import llama, load, merged, same, save, tuned


class Interruption:
    """Interrupts after so many tensors, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, count: int) -> None:
        self.left -= count > 0
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    base = llama(0)
    models = [save(tmp_path / f"m{i}", tuned(base, i), 2) for i in (1, 2)]
    return {"base": save(tmp_path / "base", base, 2), "models": [{"path": path} for path in models], "method": "ties"}


def run(recipe: dict[str, Any], out: Path, told: Callable[[int], None] = lambda _: None) -> Report:
    return merge(parse(Recipe, recipe, "test"), out, told=told)


def interrupted(recipe: dict[str, Any], out: Path, after: int = 4) -> Path:
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out, Interruption(after))
    return out.with_name(out.name + ".partial")


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_the_same_merge_goes_on_where_it_stopped(tmp_path: Path, recipe: dict[str, Any], name: str) -> None:
    partial = interrupted(recipe, tmp_path / name)
    assert len(json.loads((partial / "journal.json").read_text())["done"]) == 4
    assert not (tmp_path / name).exists()
    heard: list[int] = []
    assert run(recipe, tmp_path / name, heard.append).resumed == 4
    run(recipe, tmp_path / f"again-{name}")
    assert same(load(tmp_path / name), load(tmp_path / f"again-{name}"))
    assert sum(heard) == sum(t.nbytes for t in load(tmp_path / name).values())
    assert not partial.exists()
    assert not (tmp_path / name / "journal.json").exists()


def test_what_was_written_is_not_written_again(tmp_path: Path, recipe: dict[str, Any]) -> None:
    partial = interrupted(recipe, tmp_path / "out.safetensors")
    file = partial / "out.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 4] = b"mark"
    file.write_bytes(data)
    run(recipe, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes()[start : start + 4] == b"mark"


def test_another_merge_starts_afresh(tmp_path: Path, recipe: dict[str, Any]) -> None:
    interrupted(recipe, tmp_path / "out")
    assert run(recipe | {"parameters": {"density": 0.5}}, tmp_path / "out").resumed == 0


def test_models_that_changed_start_afresh(tmp_path: Path, recipe: dict[str, Any]) -> None:
    interrupted(recipe, tmp_path / "out")
    shard = tmp_path / "m1" / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\x00\x00")
    assert run(recipe, tmp_path / "out").resumed == 0


def test_a_damaged_journal_starts_afresh(tmp_path: Path, recipe: dict[str, Any]) -> None:
    for text in ("{", "[]", "{}"):
        (interrupted(recipe, tmp_path / "out") / "journal.json").write_text(text)
    assert run(recipe, tmp_path / "out").resumed == 0


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match=r"out\.partial: not left by a merge"):
        run(recipe, tmp_path / "out")
    assert (tmp_path / "out.partial" / "mine").read_text() == "precious"


def test_an_error_keeps_what_is_done(tmp_path: Path) -> None:
    base = {"a": torch.ones(3), "b": torch.ones(3)}
    bad = {"a": torch.zeros(3), "b": torch.tensor([1.0, float("nan"), 0.0])}
    paths = [save(tmp_path / "base.safetensors", base), save(tmp_path / "bad.safetensors", bad)]
    with pytest.raises(ConfigError, match="not finite"):
        merged(tmp_path / "out.safetensors", paths[1:], base=paths[0])
    assert json.loads((tmp_path / "out.safetensors.partial" / "journal.json").read_text())["done"] == ["a"]


class FullDisk:
    """Has room for so many writes of weights, and then for the journal only once the reserve is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
        self.left = writes
        self._pwrite, self._store = os.pwrite, writing._store
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(writing, "_store", self.store)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwrite(descriptor, data, offset)

    def store(self, path: Path, data: bytes) -> None:
        reserve = path.with_name("journal.reserve")
        if self.left < 0 and reserve.exists() and reserve.stat().st_size >= len(data):
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        self._store(path, data)


def test_a_full_disk_loses_nothing_that_was_written(
    tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, written = 2, 5
    with monkeypatch.context() as patch:
        FullDisk(patch, headers + written)
        with pytest.raises(DegradedError, match=r"the disk is full: make room for [\d,]+ bytes.*same command"):
            run(recipe, tmp_path / "out")
    partial = tmp_path / "out.partial"
    noted = len(json.loads((partial / "journal.json").read_text())["done"])
    assert written - 1 <= noted <= written + 1  # an empty tensor takes no write
    assert not (partial / "journal.json.new").exists()
    assert run(recipe, tmp_path / "out").resumed == noted
    run(recipe, tmp_path / "again")
    assert same(load(tmp_path / "out"), load(tmp_path / "again"))
    assert not list((tmp_path / "out").glob("journal*"))


@pytest.mark.parametrize(("text", "count"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("700", 700), ("2kB", 2000)])
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 apples"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="5GB"):
        parse_size(text)
