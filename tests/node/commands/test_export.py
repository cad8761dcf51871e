from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from .command_line import run


class Exporter(ModuleType):
    """Stands for peermerge.node.export."""

    def __init__(self) -> None:
        super().__init__("peermerge.node.export")
        self.calls: list[tuple[Path, Path, bool]] = []

    def export(self, data_dir: Path, out: Path, *, mean: bool) -> dict[str, object]:
        self.calls.append((data_dir, out, mean))
        return {"file": str(out), "contributors": ["a", "b"]}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    fake = Exporter()
    monkeypatch.setitem(sys.modules, "peermerge.node.export", fake)
    return fake


@pytest.mark.parametrize("mean", [False, True])
def test_what_was_written_is_told(exporter: Exporter, tmp_path: Path, mean: bool) -> None:
    out = tmp_path / "model.safetensors"
    done = run("export", str(tmp_path), "-o", str(out), *(["--mean"] if mean else []))
    assert (done.code, done.out) == (0, f"file: {out}\ncontributors: a, b\n")
    assert exporter.calls == [(tmp_path, out, mean)]


def test_a_missing_folder_is_told_before_anything_is_read(exporter: Exporter, tmp_path: Path) -> None:
    done = run("export", str(tmp_path), "--out", str(tmp_path / "absent" / "model.safetensors"))
    assert done.code == 2
    assert not exporter.calls


def test_a_folder_that_is_no_data_directory_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    assert run("export", str(tmp_path), "-o", str(tmp_path / "model.safetensors")).code == 3
