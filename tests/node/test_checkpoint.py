import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_bytes

from peermerge.node.checkpoint import KEPT, Checkpoint, flatten, load, save, unflatten
from peermerge.node.storage import DiskStorage, MemoryStorage, Storage
from peermerge.protocol.errors import DataDirError, DegradedError

from .worlds import WRITE_POINTS, Faults, break_disk, flips


def checkpoint(round_: int, **state: Any) -> Checkpoint:
    return Checkpoint(round_, 1, round_ + 1, torch.full((4,), float(round_)), state, {"epoch": 1}, {"omega": 0.5})


def newest(storage: Storage) -> tuple[int, list[str]]:
    found, damaged = load(storage)
    return (found.round if found else -1), damaged


def name(round_: int) -> str:
    return f"checkpoints/{round_:09d}.safetensors"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStorage]:
    storage = DiskStorage(tmp_path)
    yield storage
    storage.close()


def test_everything_comes_back_as_it_was(disk: DiskStorage) -> None:
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}, 1: {}}
    state: dict[str, Any] = {
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}]},
        "position": 7,
        "flags": [True, None, "text", float("inf")],
        "seen": torch.tensor([True, False]),
        "empty": torch.zeros(0),
        "transposed": torch.arange(6).view(2, 3).T,
    }
    save(disk, checkpoint(3, **state))
    found, damaged = load(disk)
    assert found is not None
    assert damaged == []
    assert (found.round, found.epoch, found.version, found.pace) == (3, 1, 4, {"omega": 0.5})
    assert found.ledger == {"epoch": 1}
    assert torch.equal(found.tau, torch.full((4,), 3.0))
    assert found.state["optimizer"]["param_groups"] == [{"lr": 0.1, "betas": [0.9, 0.99], "params": [0, 1]}]
    assert torch.equal(found.state["optimizer"]["state"][0]["exp_avg"], moments[0]["exp_avg"])
    assert found.state["flags"] == state["flags"]
    assert torch.equal(found.state["seen"], state["seen"])
    assert torch.equal(found.state["transposed"], state["transposed"])
    assert found.state["empty"].shape == (0,)


def test_what_a_file_cannot_hold_is_named() -> None:
    for value in ({1, 2}, object(), b"bytes", {(1, 2): 3}, np.int64(3)):
        with pytest.raises(TypeError, match=type(value).__name__):
            flatten([value], {})
    with pytest.raises(DataDirError, match="damaged"):
        unflatten({"unknown": 1}, {})


def test_the_last_two_are_kept_and_the_newest_is_loaded() -> None:
    storage = MemoryStorage()
    assert newest(storage) == (-1, [])
    for round_ in (5, 10, 15, 20):
        save(storage, checkpoint(round_))
        assert newest(storage) == (round_, [])
    assert storage.names("checkpoints") == [name(15), name(20)]
    storage.write("checkpoints/notes.txt", b"")
    assert newest(storage) == (20, [])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it() -> None:
    storage = MemoryStorage()
    save(storage, checkpoint(5))
    save(storage, checkpoint(10))
    whole = storage.read(name(10)) or b""
    for damaged in flips(whole, np.random.default_rng(0), 60):
        storage.write(name(10), damaged)
        assert newest(storage) == (5, [name(10)])
    storage.write(name(5), b"damaged too")
    assert newest(storage) == (-1, [name(10), name(5)])


def test_a_file_with_a_right_digest_and_wrong_content_is_passed_over() -> None:
    storage = MemoryStorage()
    save(storage, checkpoint(5))
    for data in (
        b"no safetensors",
        save_bytes({"tau": torch.zeros(1)}),
        save_bytes({"tau": torch.zeros(1)}, {"peermerge": "7"}),
        save_bytes({"tau": torch.zeros(1)}, {"peermerge": "{}"}),
    ):
        storage.write(name(10), hashlib.sha256(data).digest() + data)
        assert newest(storage) == (5, [name(10)])


def test_a_run_that_took_up_an_earlier_round_drops_the_damaged_later_one() -> None:
    storage = MemoryStorage()
    for round_ in (5, 10):
        save(storage, checkpoint(round_))
    storage.write(name(10), b"damaged")
    save(storage, checkpoint(7))
    save(storage, checkpoint(8))
    assert storage.names("checkpoints") == [name(7), name(8)]
    assert len(storage.names("checkpoints")) == KEPT


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("point", [*WRITE_POINTS, "unlink"])
def test_a_fault_at_any_point_of_the_writer_leaves_a_loadable_checkpoint(
    disk: DiskStorage, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    for round_ in (5, 10):
        save(disk, checkpoint(round_))
    if point == "unlink":
        fault = Faults(Path.unlink, 1, number)
        monkeypatch.setattr(Path, "unlink", fault)
    else:
        fault = break_disk(monkeypatch, point, number)
    with pytest.raises(DegradedError):
        save(disk, checkpoint(15))
    monkeypatch.undo()
    assert fault.fired
    assert newest(disk) == (15 if point in ("fsync folder", "unlink") else 10, [])
    save(disk, checkpoint(20))
    assert newest(disk) == (20, [])
    assert len(disk.names("checkpoints")) == KEPT


def test_a_kill_leaves_half_a_file_under_another_name(disk: DiskStorage) -> None:
    save(disk, checkpoint(5))
    (disk.root / "checkpoints" / "000000010.safetensors.tmp").write_bytes(b"half")
    assert newest(disk) == (5, [])


def test_a_truncated_newest_file_falls_back(disk: DiskStorage) -> None:
    save(disk, checkpoint(5))
    save(disk, checkpoint(10))
    path = disk.root / name(10)
    size = path.stat().st_size
    for length in (0, 1, 31, 32, 40, size // 2, size - 1):
        path.write_bytes((disk.read(name(10)) or b"")[:length])
        assert newest(disk) == (5, [name(10)])
        save(disk, checkpoint(10))
