import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peermerge.node.storage import DiskStorage, MemoryStorage, Storage
from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.errors import DataDirError, DegradedError, FrameError, Refusal

from .worlds import WRITE_POINTS, Faults, all_bytes, break_disk

HOLD = """
import sys, pathlib
from peermerge.node.storage import DiskStorage
from peermerge.protocol.errors import DataDirError
try:
    DiskStorage(pathlib.Path(sys.argv[1]))
except DataDirError as error:
    sys.exit(f"refused: {error}")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStorage]:
    storage = DiskStorage(tmp_path / "data")
    yield storage
    storage.close()


def write_blocks(storage: Storage, name: str, error: Exception | None = None) -> None:
    """Write a draft in four blocks and commit it, or fail before that."""
    with storage.create(name) as draft:
        for _ in range(4):
            draft.file.write(bytes(100_000))
        if error:
            raise error
        draft.commit()


def test_both_storages_keep_list_and_forget_names(disk: DiskStorage) -> None:
    storages: list[Storage] = [disk, MemoryStorage()]
    for storage in storages:
        assert storage.read("log/b") is None
        assert storage.names("log") == []
        storage.write("log/b", b"1")
        storage.write("log/a", b"2")
        storage.write("other", b"3", durable=False)
        storage.write("log/b", b"4")
        assert (storage.read("log/b"), storage.read("other")) == (b"4", b"3")
        assert storage.names("log") == ["log/a", "log/b"]
        storage.remove("log/a")
        storage.remove("log/a")
        assert storage.names("log") == ["log/b"]


def test_both_storages_lend_drafts_that_are_there_once_they_are_committed(disk: DiskStorage) -> None:
    storages: list[Storage] = [disk, MemoryStorage()]
    for storage in storages:
        storage.write("log/a", b"old")
        kept = storage.open("log/a")
        with storage.create("log/a") as draft:
            draft.file.write(b"?ew")
            draft.file.seek(0)
            draft.file.write(b"n")
            assert storage.read("log/a") == b"old"
            assert storage.names("log") == ["log/a"]
            draft.commit()
            assert storage.read("log/a") == b"new"
        assert kept is not None
        assert all_bytes(kept) == b"old", "what was opened stays readable"
        assert all_bytes(storage.open("log/a") or MemoryBlob(b"")) == b"new"
        assert storage.open("log/b") is None
    assert not list(disk.root.rglob("*.tmp"))


def test_a_draft_that_is_not_committed_never_was(disk: DiskStorage) -> None:
    storages: list[Storage] = [disk, MemoryStorage()]
    for storage in storages:
        storage.write("log/a", b"old")
        with storage.create("log/a") as draft:
            draft.file.write(b"new")
        with pytest.raises(FrameError):
            write_blocks(storage, "log/b", FrameError(Refusal.OVERFLOW))
        assert storage.names("log") == ["log/a"]
        assert storage.read("log/a") == b"old"
    assert not list(disk.root.rglob("*.tmp"))


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_fills_up_in_the_middle_of_a_draft_keeps_what_was_there(
    disk: DiskStorage, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    disk.write("log/a", b"old")
    fault = break_disk(monkeypatch, "write", writes=writes)
    with pytest.raises(DegradedError, match="log/a"):
        write_blocks(disk, "log/a")
    monkeypatch.undo()
    assert fault.fired
    assert disk.read("log/a") == b"old"
    assert not list(disk.root.rglob("*.tmp"))


def test_a_second_process_is_refused_with_the_cure_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(DataDirError, match=r"another process.*stop it or choose another --data-dir"):
            DiskStorage(tmp_path)
        second = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "stop it or choose another --data-dir" in second.stderr
        DiskStorage(tmp_path, lock=False).names("log")
        holder.kill()
    DiskStorage(tmp_path).close()


def test_the_lock_is_let_go_once_and_survives_a_second_close(tmp_path: Path) -> None:
    first = DiskStorage(tmp_path)
    with pytest.raises(DataDirError):
        DiskStorage(tmp_path)
    first.close()
    first.close()
    DiskStorage(tmp_path).close()


def test_a_directory_that_cannot_be_used_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match=r"file.*choose another --data-dir"):
        DiskStorage(tmp_path / "file")
    monkeypatch.setattr(os, "open", Faults(os.open, 1, errno.EACCES))
    with pytest.raises(DataDirError, match=r"make it writable"):
        DiskStorage(tmp_path / "forbidden")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(DataDirError, match="make it writable"):
            DiskStorage(tmp_path / "data")
    finally:
        tmp_path.chmod(0o700)


def test_unreadable_files_and_folders_are_data_directory_errors(disk: DiskStorage, tmp_path: Path) -> None:
    disk.write("file", b"")
    disk.write("folder/name", b"")
    with pytest.raises(DataDirError, match="folder"):
        disk.read("folder")
    with pytest.raises(DataDirError, match="name"):
        disk.open("file/name")
    with pytest.raises(DataDirError, match="file"):
        disk.names("file")
    with pytest.raises(DegradedError, match="folder"):
        disk.remove("folder")
    with pytest.raises(DegradedError, match="file"):
        disk.write("file/name", b"")


def test_left_overs_of_a_kill_are_removed_at_the_start_and_never_listed(tmp_path: Path) -> None:
    first = DiskStorage(tmp_path)
    first.write("log/a", b"old")
    (tmp_path / "log" / "b.tmp").write_bytes(b"half")
    (tmp_path / "log" / "folder.tmp").mkdir()
    assert first.names("log") == ["log/a"]
    first.close()
    second = DiskStorage(tmp_path)
    assert not (tmp_path / "log" / "b.tmp").exists()
    assert second.read("log/a") == b"old"
    second.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("point", WRITE_POINTS)
@pytest.mark.parametrize("existing", [True, False])
def test_a_disk_that_refuses_at_any_point_leaves_the_old_or_the_new_file(
    disk: DiskStorage, monkeypatch: pytest.MonkeyPatch, point: str, number: int, existing: bool
) -> None:
    disk.write("log/other", b"")
    if existing:
        disk.write("log/a", b"old")
    fault = break_disk(monkeypatch, point, number)
    with pytest.raises(DegradedError, match="log/a"):
        disk.write("log/a", b"new")
    monkeypatch.undo()
    assert fault.fired
    assert disk.read("log/a") in ((b"new",) if point == "fsync folder" else (b"old",) if existing else (None,))
    assert not list(disk.root.rglob("*.tmp"))
    disk.write("log/a", b"newer")
    assert disk.read("log/a") == b"newer"


def test_a_write_is_durable_before_it_returns(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """File before rename, folder after it: without the first a power cut leaves an empty file."""
    disk.write("log/other", b"")
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        calls.append("file" if Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix == ".tmp" else "folder")
        real_sync(descriptor)

    def replace(one: Path, other: Path) -> None:
        calls.append("rename")
        real_replace(one, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    disk.write("log/a", b"1")
    disk.write("log/b", b"1", durable=False)
    disk.write("fresh/a", b"1")
    assert calls == ["file", "rename", "folder", "rename", "folder", "file", "rename", "folder"]
