from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from peermerge.node.commands import checks, doctor
from peermerge.node.commands.checks import Finding

from .command_line import run


def test_this_machine_can_run_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("doctor")
    assert done.code == 0, done.out
    assert len(done.out.splitlines()) == len(checks.CHECKS)
    assert "round trip over 127.0.0.1" in done.out
    assert not list(tmp_path.iterdir()), "it cleans up after itself"


def test_findings_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("sky", "warn", "it rains", "take a coat"),))
    done = run("doctor", "--json")
    assert done.code == 0, "a warning is no failure"
    assert json.loads(done.out) == [{"name": "sky", "level": "warn", "text": "it rains", "cure": "take a coat"}]


def test_one_failure_decides_the_exit_code_and_shows_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Finding("a", "ok", "fine"), Finding("b", "fail", "broken", "mend it")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: good, lambda: bad, lambda: good))
    done = run("doctor")
    assert done.code == 1
    assert "fail  b         broken -> mend it" in done.out
    assert len(done.out.splitlines()) == 3, "the rest is checked all the same"


def test_a_missing_torch_is_a_failure_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = checks.torch_import()
    assert found.level == "fail"
    assert "install torch" in found.cure
    assert checks.cuda().level == "warn"


def test_a_folder_that_refuses_writes_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> Path:
        return tmp_path / "absent"

    monkeypatch.setattr(Path, "cwd", absent)
    assert checks.storage().level == "fail"


def test_little_free_space_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "FREE_BYTES", 10**30)
    assert checks.space().level == "warn"


def test_more_threads_than_cores_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert checks.threads().level == "warn"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS=1" in checks.threads().text


def test_a_missing_package_is_a_failure_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(_name: str) -> list[str]:
        return ["grpcio>=1.71", "no-such-package-here[extra]>=1,<2", "pytest; extra == 'dev'"]

    monkeypatch.setattr(checks, "requires", listed)
    found = checks.packages()
    assert found.level == "fail"
    assert found.cure == "pip install no-such-package-here"
