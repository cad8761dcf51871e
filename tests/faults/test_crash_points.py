"""A kill, a full disk, an I/O error at every system call by which log and checkpoints are written."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peermerge.node.storage import DiskStorage

from ..node.worlds import HalfWritten
from .crash_points import (
    KILLED,
    VERSIONS,
    Story,
    Writers,
    calls_on,
    check,
    look,
    opened,
    point_after,
    write_all,
    writers,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

FAULTS = {"killed": "signal=SIGKILL", "full": "error=ENOSPC", "broken": "error=EIO"}
SOME, ALL = 7, 1
"""Take every so manieth point."""
EVERY = [pytest.param(SOME, id="some"), pytest.param(ALL, id="all", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def writer() -> Iterator[Writers]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with writers() as found:
        yield found


@pytest.fixture(scope="module")
def points(writer: Writers, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """The system calls of a writer that nothing happens to."""
    folder = tmp_path_factory.mktemp("traced")
    try:
        code, story = writer.run(folder / "data", folder / "trace")
    except PermissionError as error:
        pytest.skip(f"strace may not attach: {error}")
    assert (code, story.saved, len(story.published)) == (0, VERSIONS, VERSIONS)
    check(folder / "data", story)
    found = calls_on(folder / "data", folder / "trace")
    assert len(found) >= 30
    assert {"openat", "write", "fsync", "rename", "unlink", "mkdir"} <= {call for call, _ in found}
    return found


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_acknowledged_is_there_whatever_call_fails(
    writer: Writers, points: list[tuple[str, int]], tmp_path: Path, fault: str, every: int
) -> None:
    refusals = 0
    for number, (call, place) in enumerate(points[::every]):
        root, trace = tmp_path / f"{number}", tmp_path / f"{number}.trace"
        code, story = writer.run(root, trace, "-e", f"inject={call}:{FAULTS[fault]}:when={place}")
        last = trace.read_text().splitlines()
        struck = [line for line in last if "(INJECTED)" in line] if fault != "killed" else last[-2:-1]
        assert len(struck) == 1
        assert struck[0].startswith(f"{call}(")
        assert str(root) in struck[0], "the fault fired, and on our files"
        assert code == (KILLED if fault == "killed" else 0), f"{call} {place}"
        if fault != "killed":
            assert (story.saved, len(story.published)) == (VERSIONS, VERSIONS), "it goes on"
        refusals += story.refusals
        check(root, story)
        shutil.rmtree(root)
    print(f"{fault}: {len(points[::every])} points, {refusals} refusals")
    assert (refusals > 0) == (fault != "killed")


# ---- The same without strace: the calls that Python makes. ----


class Calls:
    """Counts calls that touch the disk; one of them fails, or it and all later ones."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, number: int, *, lasting: bool) -> None:
        self.calls = self.fired = 0
        self._at, self._number, self._lasting = at, number, lasting
        real = open
        patch.setattr(builtins, "open", lambda *a, **k: HalfWritten(self._guard(real)(*a, **k), self._strike))
        for name in ("open", "fsync", "replace", "mkdir", "unlink"):
            patch.setattr(os, name, self._guard(getattr(os, name)))

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._strike()
            return real(*arguments, **keywords)

        return call

    def _strike(self) -> None:
        self.calls += 1
        if self.calls == self._at or (self._lasting and self.calls > self._at):
            self.fired += 1
            raise OSError(self._number, os.strerror(self._number))


def told(root: Path, patch: pytest.MonkeyPatch, at: int, number: int, *, lasting: bool = False) -> tuple[Story, Calls]:
    """Let a writer of this process meet a fault; return what it said."""
    story = Story()
    storage = DiskStorage(root)
    log = opened(storage)
    with patch.context() as patched:
        calls = Calls(patched, at, number, lasting=lasting)
        write_all(storage, log, story.tell, lambda: point_after(tuple(story.published)) if lasting else look(root))
    storage.close()
    return story, calls


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("lasting", [False, True])
def test_an_error_of_any_call_is_a_refusal_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool, number: int, every: int
) -> None:
    story, calls = told(tmp_path / "whole", monkeypatch, 0, number)
    assert calls.fired == 0
    # There are many more of these; some of some will do.
    for at in range(1, calls.calls + 1, every * every):
        root = tmp_path / f"{at}"
        story, struck = told(root, monkeypatch, at, number, lasting=lasting)
        assert struck.fired
        assert lasting or (story.saved, len(story.published)) == (VERSIONS, VERSIONS)
        check(root, story)
        shutil.rmtree(root)
