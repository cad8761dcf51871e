"""The power goes at any moment: what was acknowledged is on the disk itself.

The disk is a file that holds an ext4 file system. A copy of that file is what a disk has when the power goes: what the
file system has sent to it, and nothing that only the system's memory holds.
"""

from __future__ import annotations

import copy
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from peermerge.node.storage import DiskStorage

from .crash_points import VERSIONS, Story, check, look, opened, write_all
from .disks import ext4, make_ext4

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SIZE = 16 << 20


def cut_after(folder: Path, words: set[str]) -> list[tuple[Path, Story]]:
    """Let a writer write; return what the disk had after each of these words, and what it had said until then."""
    image, story = folder / "disk", Story()
    cuts: list[tuple[Path, Story]] = []
    make_ext4(image, SIZE)

    def say(word: str, value: object) -> None:
        story.tell(word, value)
        if word in words:
            disk = folder / f"cut-{len(cuts)}"
            subprocess.run(["cp", "--sparse=always", image, disk], check=True)
            cuts.append((disk, copy.deepcopy(story)))

    with ext4(image, folder / "mounted") as place:
        storage = DiskStorage(place / "data")
        write_all(storage, opened(storage), say, lambda: look(storage.root))
        storage.close()
    return cuts


def after_the_cut(folder: Path, disk: Path, story: Story) -> None:
    """Switch on again."""
    with ext4(disk, folder / "again") as place:
        check(place / "data", story)


def test_what_was_acknowledged_is_there_after_a_power_cut(tmp_path: Path) -> None:
    cuts = cut_after(tmp_path, {"published", "saved"})
    assert len(cuts) == 2 * VERSIONS
    assert cuts[-1][1].saved == len(cuts[-1][1].published) == VERSIONS
    for disk, story in cuts:
        after_the_cut(tmp_path, disk, story)


def test_a_cut_in_the_midst_of_writing_leaves_what_was_there_before(tmp_path: Path) -> None:
    for disk, story in cut_after(tmp_path, {"publish", "save"}):
        after_the_cut(tmp_path, disk, story)


SYNCED: dict[str, Callable[[int], bool]] = {"files": stat.S_ISDIR, "folders": stat.S_ISREG, "all": lambda mode: False}
"""What is still synced where some syncs are left out."""


@pytest.mark.parametrize("left_out", SYNCED)
def test_without_one_of_the_syncs_the_cut_costs_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    sync, still = os.fsync, SYNCED[left_out]
    monkeypatch.setattr(os, "fsync", lambda file: sync(file) if still(os.fstat(file).st_mode) else None)
    disk, story = cut_after(tmp_path, {"saved"})[-1]
    monkeypatch.undo()
    assert story.saved == VERSIONS
    with pytest.raises(AssertionError):
        after_the_cut(tmp_path, disk, story)
