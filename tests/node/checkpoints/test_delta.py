from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peermerge.node.checkpoints.applying import Applied, apply
from peermerge.node.checkpoints.delta_file import DeltaFile
from peermerge.node.checkpoints.delta_index import MAGIC, TRAILER, read_index
from peermerge.node.checkpoints.encoding import Encoded, encode
from peermerge.node.checkpoints.lossless import exact
from peermerge.node.checkpoints.reading import Checkpoint
from peermerge.node.config import PublishConfig
from peermerge.protocol.errors import ConfigError, DegradedError

from .models import State, llama, load, raw, same, save, tuned

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def encoded(base: Path, fine: Path, out: Path, publish: PublishConfig | None = None) -> Encoded:
    with Checkpoint.open(base) as before, Checkpoint.open(fine) as after:
        return encode(before, after, out, publish)


def applied(base: Path, file: Path, out: Path) -> Applied:
    with Checkpoint.open(base) as before, DeltaFile(file, before) as delta:
        return apply(delta, out)


def trip(folder: Path, base: State, fine: State, publish: PublishConfig | None = None) -> tuple[Encoded, State]:
    """Encode and apply; return what was told, and the model that comes back."""
    paths = [save(folder / f"{name}.safetensors", state) for name, state in (("base", base), ("fine", fine))]
    told = encoded(paths[0], paths[1], folder / "x.pmd", publish)
    applied(paths[0], folder / "x.pmd", folder / "out.safetensors")
    return told, load(folder / "out.safetensors")


@each_dtype
@pytest.mark.parametrize("density", [1.0, 0.05, 0.0])
def test_without_a_budget_the_fine_tune_comes_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, density: float
) -> None:
    base = llama(0, dtype)
    fine = tuned(base, 1, density=density)
    told, found = trip(tmp_path, base, fine)
    assert same(found, fine)
    assert told.budget == "lossless"


def test_the_base_itself_takes_no_sections(tmp_path: Path) -> None:
    told, found = trip(tmp_path, llama(0), llama(0))
    assert same(found, llama(0))
    assert (told.unchanged, told.entries, told.patches, told.whole) == (told.tensors, 0, 0, ())


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@each_dtype
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_finite_values_come_back_bit_for_bit(dtype: torch.dtype, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 20))
    base, fine = (torch.tensor(data.draw(st.lists(floats, min_size=count, max_size=count))).to(dtype) for _ in range(2))
    finite = base.isfinite() & fine.isfinite()
    base, fine = base[finite], fine[finite]
    found = exact(base, fine)
    values = torch.from_numpy((found.delta.levels * 2.0 ** int(found.delta.exponents[0])).astype(np.float32))
    index, places = torch.from_numpy(found.delta.index), torch.from_numpy(found.places)
    back = base.clone()
    back[index] = (base[index].float() + values).to(dtype)
    back[places] = fine[places]
    assert raw(back) == raw(fine)
    assert not set(index.tolist()) & set(places.tolist())


def test_zeros_keep_their_signs(tmp_path: Path) -> None:
    base = {"a": torch.tensor([0.0, -0.0, 1.0, -0.0])}
    fine = {"a": torch.tensor([-0.0, 0.0, 0.0, -0.0])}
    assert same(trip(tmp_path, base, fine)[1], fine)


def test_what_is_no_change_of_the_base_stands_in_the_file_whole(tmp_path: Path) -> None:
    base = llama(0) | {"steps": torch.tensor(1), "only.base": torch.ones(2), "head": torch.ones(3, 4)}
    fine = tuned(llama(0), 1) | {"steps": torch.tensor(2), "added": torch.ones(3, dtype=torch.bool)}
    fine |= {"head": torch.ones(5, 4), "double": torch.ones(2, dtype=torch.float64)}
    told, found = trip(tmp_path, base, fine)
    assert same(found, fine)
    assert {"steps", "added", "head", "double"} <= set(told.whole)
    assert told.absent == ("only.base",)


@pytest.mark.parametrize("publish", [{"density": 0.1}, {"bits": 0.8}, {"relative_error": 0.3}], ids=str)
def test_a_budget_leaves_behind_what_it_says(tmp_path: Path, publish: dict[str, float]) -> None:
    base = {"w": torch.zeros(200, 300)}
    fine = {"w": torch.randn(200, 300, generator=torch.Generator().manual_seed(0))}
    told, found = trip(tmp_path, base, fine, PublishConfig(**publish, selection="tensor"))  # type: ignore[arg-type]
    left = float((found["w"] - fine["w"]).square().sum() / fine["w"].square().sum())
    assert told.left == pytest.approx(left, rel=1e-3)
    if "density" in publish:
        assert told.entries == pytest.approx(0.1 * 60_000, rel=0.01)
    if "bits" in publish:
        assert told.bytes * 8 / 60_000 == pytest.approx(0.8, rel=0.2)
    if "relative_error" in publish:
        assert left == pytest.approx(0.3, rel=0.05)


def test_folders_come_back_with_shards_and_the_fine_tunes_own_files(tmp_path: Path) -> None:
    base, fine = llama(0), tuned(llama(0), 1)
    there = [save(tmp_path / "base", base, 3), save(tmp_path / "fine", fine, 2)]
    (there[1] / "tokenizer.json").write_text('{"added": 1}')
    (there[1] / "modeling.py").write_text("raise SystemExit")
    told = encoded(there[0], there[1], tmp_path / "x.pmd")
    assert told.files == ("tokenizer.json",)
    done = applied(there[0], tmp_path / "x.pmd", tmp_path / "out")
    assert done.exact
    assert same(load(tmp_path / "out"), fine)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert names == sorted(["config.json", "tokenizer.json", "model.safetensors.index.json", *shards])
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == {"added": 1}
    with Checkpoint.open(tmp_path / "out") as found:
        assert set(found.tensors) == set(fine)


def test_another_base_is_refused_by_the_name_of_a_tensor(tmp_path: Path) -> None:
    base, fine = llama(0), tuned(llama(0), 1)
    trip(tmp_path, base, fine)
    other = dict(base)
    other["model.embed_tokens.weight"] = other["model.embed_tokens.weight"] + 1
    path = save(tmp_path / "other.safetensors", other)
    with pytest.raises(ConfigError, match=r"model\.embed_tokens\.weight.*not that of the base"):
        applied(path, tmp_path / "x.pmd", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()
    path = save(tmp_path / "less.safetensors", {"model.norm.weight": base["model.norm.weight"]})
    with pytest.raises(ConfigError, match="give the base"):
        applied(path, tmp_path / "x.pmd", tmp_path / "again.safetensors")


def test_a_full_disk_leaves_no_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, fine = (save(tmp_path / f"{seed}.safetensors", llama(seed)) for seed in (0, 1))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DegradedError, match=r"x\.pmd: the disk is full: nothing was written"):
        encoded(base, fine, tmp_path / "x.pmd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    base, fine = (save(tmp_path / f"{seed}.safetensors", llama(seed)) for seed in (0, 1))
    before = fine.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        encoded(base, fine, fine)
    assert fine.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["base", "fine"])
def test_what_is_not_finite_is_refused_and_leaves_no_file(tmp_path: Path, value: float, which: str) -> None:
    models = {"base": {"a": torch.ones(4)}, "fine": {"a": torch.ones(4)}}
    models[which]["a"][2] = value
    with pytest.raises(ConfigError, match="'a'"):
        trip(tmp_path, models["base"], models["fine"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.safetensors", "fine.safetensors"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    base = llama(0) | {"steps": torch.tensor(1)}
    trip(tmp_path, base, tuned(base, 1, density=0.5))
    return tmp_path / "x.pmd"


def test_no_cut_goes_unnoticed(file: Path) -> None:
    data = file.read_bytes()
    for size in range(0, len(data), 29):
        file.write_bytes(data[:size])
        with pytest.raises(ConfigError, match=r"x\.pmd"):
            read_index(file)


def test_no_changed_byte_goes_unnoticed(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), 53):
        data[place] ^= 0x40
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=r"x\.pmd"):
            applied(tmp_path / "base.safetensors", file, tmp_path / "again.safetensors")
        data[place] ^= 0x40


def forged(file: Path, change: str) -> None:
    """Change the index, and sign it again."""
    index = read_index(file)
    start = len(file.read_bytes()) - len(index.pack())
    assert file.read_bytes()[start:] == index.pack()
    data = index.model_dump()
    changed = next(record for record in data["tensors"] if record["frame"])
    whole = next(record for record in data["tensors"] if record["raw"])
    changes = {
        "shape": lambda: whole.update(shape=[1 << 50]),
        "type": lambda: changed.update(dtype="F4"),
        "twice": lambda: changed.update(name=whole["name"]),
        "neither": lambda: whole.update(raw=None),
        "places": lambda: changed.update(places=changed["frame"]),
        "offset": lambda: changed["frame"].update(offset=changed["frame"]["offset"] + 1),
        "size": lambda: changed["frame"].update(size=1 << 60),
        "escape": lambda: data["files"].append({"name": "../x.json", "data": changed["frame"]}),
        "code": lambda: data["files"].append({"name": "x.py", "data": changed["frame"]}),
    }
    changes[change]()
    body = file.read_bytes()[:start]
    text = json.dumps(data).encode()
    file.write_bytes(body + text + TRAILER.pack(len(text), hashlib.sha256(text).digest()))


@pytest.mark.parametrize("change", ["shape", "type", "twice", "neither", "places", "offset", "size", "escape", "code"])
def test_an_index_that_contradicts_itself_is_refused(file: Path, change: str) -> None:
    forged(file, change)
    with pytest.raises(ConfigError, match="not a valid delta file"):
        read_index(file)


def test_a_frame_for_another_shape_is_refused(tmp_path: Path) -> None:
    base = {"a": torch.zeros(4, 4), "b": torch.zeros(16)}
    fine = {name: tensor + 1 for name, tensor in base.items()}
    trip(tmp_path, base, fine)
    file = tmp_path / "x.pmd"
    index = read_index(file)
    records = [record.model_copy(update={"shape": [2, 8]} if record.name == "a" else {}) for record in index.tensors]
    changed = index.model_copy(update={"tensors": records})
    file.write_bytes(file.read_bytes()[: -len(index.pack())] + changed.pack())
    other: dict[str, Tensor] = base | {"a": torch.zeros(2, 8)}
    path = save(tmp_path / "other.safetensors", other)
    with pytest.raises(ConfigError, match="MANIFEST_MISMATCH"):
        applied(path, file, tmp_path / "again.safetensors")


def test_what_is_no_delta_file_is_named(tmp_path: Path) -> None:
    for data in (b"", b"PMRF", MAGIC, MAGIC + bytes(36)):
        (tmp_path / "x.pmd").write_bytes(data)
        with pytest.raises(ConfigError, match=r"x\.pmd"):
            read_index(tmp_path / "x.pmd")
    with pytest.raises(ConfigError, match="absent"):
        read_index(tmp_path / "absent")
