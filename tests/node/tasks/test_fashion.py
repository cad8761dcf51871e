"""IDX files are read or refused by name; the clothing task runs on small ones, and on the real ones if there."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from peermerge.node.tasks import Shard, load_task
from peermerge.node.tasks.fashion import ROOT
from peermerge.node.tasks.idx import read_idx
from peermerge.protocol.errors import ConfigError

CPU = torch.device("cpu")


def write_idx(path: Path, array: NDArray[Any]) -> Path:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train", 80), ("t10k", 20)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3)])
def test_an_idx_file_is_read_as_it_was_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    read = read_idx(write_idx(tmp_path / "a.gz", array))
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x00",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x0d\x01\0\0\0\1\0\0\0\0",
        b"\0\0\x08\x01\0\0\0\5abcd",
        b"\0\0\x08\x01\0\0\0\3abcd",
        b"\0\0\x08\xff" + b"\xff" * 1_020,
    ],
)
def test_a_file_that_is_no_idx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ConfigError, match=r"a\.gz"):
        read_idx(tmp_path / "a.gz")


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: b"x" + whole, lambda whole: whole[:12]])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_idx(tmp_path / "a.gz", np.arange(200))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="no complete gzip file"):
        read_idx(path)


def test_the_task_trains_on_the_files_of_its_root(root: Path) -> None:
    task = load_task("fashion", Shard(0, 2), {"root": str(root), "train_size": 80, "test_size": 20, "batch": 8})
    model = task.model()
    assert task.train(model, 2, CPU).samples == 16
    assert set(task.evaluate(model, CPU)) == {"accuracy", "loss"}


def test_more_images_than_there_are_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"train size 81: .* holds 80 images"):
        load_task("fashion", Shard(), {"root": str(root), "train_size": 81, "test_size": 20})


def test_missing_files_come_with_the_command_that_installs_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt-get install dataset-fashion-mnist"):
        load_task("fashion", Shard(), {"root": str(tmp_path / "nowhere")})


@pytest.mark.skipif(not Path(ROOT).is_dir(), reason="dataset-fashion-mnist is not installed")
def test_real_clothing_is_learnt() -> None:
    task = load_task("fashion", Shard(), {"train_size": 1_000, "test_size": 500})
    model = task.model()
    task.train(model, 60, CPU)
    assert task.evaluate(model, CPU)["accuracy"] > 0.6
