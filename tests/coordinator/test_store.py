from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peermerge.coordinator.store import FORMAT, SavedMesh, Store
from peermerge.protocol.errors import DataDirError, DegradedError
from peermerge.protocol.limits import MAX_INCARNATION, MAX_REFUTED, MAX_VIEW_EPOCH
from peermerge.protocol.members import MemberState

from .worlds import claim

LEFT = replace(claim("bob", 2, MAX_INCARNATION, MAX_REFUTED), state=MemberState.LEFT)
MESH = SavedMesh("net", "run", 7, (claim("alice"), LEFT))
OTHER = SavedMesh("net", "other", MAX_VIEW_EPOCH, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "roster.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path)
    yield made
    made.close()


def test_an_empty_file_knows_nobody(store: Store) -> None:
    assert store.load() == []


def test_what_was_saved_is_loaded_by_the_next(store: Store, path: Path) -> None:
    store.save([MESH, OTHER])
    store.close()
    again = Store(path)
    assert sorted(again.load(), key=str) == sorted([MESH, OTHER], key=str)
    again.close()


def test_a_mesh_is_replaced_as_a_whole_and_others_stay(store: Store) -> None:
    store.save([MESH, OTHER])
    less = replace(MESH, epoch=8, members=(LEFT,))
    store.save([less])
    assert sorted(store.load(), key=str) == sorted([less, OTHER], key=str)
    store.save([replace(MESH, epoch=0, members=())])
    assert store.load() == [OTHER]


def test_one_coordinator_at_a_time_uses_a_file(store: Store, path: Path) -> None:
    store.save([MESH])
    with pytest.raises(DataDirError, match="another coordinator uses this file"):
        Store(path).load()
    assert store.load() == [MESH]


def test_a_full_disk_is_degraded_and_leaves_what_was_saved(store: Store, path: Path) -> None:
    store.save([MESH])
    many = SavedMesh("net", "run", 9, tuple(claim(f"n{i}") for i in range(5000)))
    assert store._file is not None
    store._file.execute("PRAGMA max_page_count = 8")
    with pytest.raises(DegradedError, match="full"):
        store.save([many])
    assert store.load() == [MESH]
    store.save([many])
    assert store.load()[0].epoch == 9


def test_a_read_only_file_is_degraded(store: Store) -> None:
    store.save([MESH])
    assert store._file is not None
    store._file.execute("PRAGMA query_only = ON")
    with pytest.raises(DegradedError, match="readonly"):
        store.save([OTHER])


def test_a_folder_that_is_not_there_is_degraded(tmp_path: Path) -> None:
    with pytest.raises(DegradedError, match="unable to open"):
        Store(tmp_path / "none" / "roster.sqlite").load()


def test_a_file_that_is_no_roster_is_named_with_the_cure(store: Store, path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(DataDirError, match="move it away"):
        store.load()


@pytest.mark.parametrize("column", ["name = 'No Name'", "address = x'00ff'", "state = 9", "incarnation = -1"])
def test_damaged_rows_are_named_with_the_cure(store: Store, path: Path, column: str) -> None:
    store.save([MESH])
    store.close()
    with sqlite3.connect(path) as file:
        file.execute(f"UPDATE member SET {column} WHERE name = 'alice'")
    file.close()
    with pytest.raises(DataDirError, match="move it away"):
        store.load()


def test_a_file_of_a_later_version_is_left_alone(store: Store, path: Path) -> None:
    store.save([MESH])
    store.close()
    with sqlite3.connect(path) as file:
        file.execute(f"PRAGMA user_version = {FORMAT + 1}")
    file.close()
    with pytest.raises(DataDirError, match="format 2"):
        store.load()
