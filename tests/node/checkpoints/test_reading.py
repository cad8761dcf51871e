from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from peermerge.node.checkpoints.header import DTYPES, pack_header, read_header
from peermerge.node.checkpoints.reading import Checkpoint
from peermerge.protocol.errors import ConfigError

from .models import llama, raw, same, save

DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown type": lambda h: h["a"].update(dtype="F4"),
    "no type": lambda h: h["a"].pop("dtype"),
    "negative shape": lambda h: h["a"].update(shape=[-1]),
    "huge shape": lambda h: h["a"].update(shape=[1 << 40, 1 << 40]),
    "shape of texts": lambda h: h["a"].update(shape=["2"]),
    "shape of another size": lambda h: h["a"].update(shape=[3]),
    "overlap": lambda h: h["b"].update(data_offsets=[4, 12]),
    "gap": lambda h: h["b"].update(data_offsets=[12, 20]),
    "beyond the end": lambda h: h["b"].update(data_offsets=[80, 88]),
    "negative offset": lambda h: h["a"].update(data_offsets=[-8, 0]),
    "a tensor too few": lambda h: h.pop("b"),
    "no table": lambda h: h.update(a=[1, 2]),
    "metadata of numbers": lambda h: h.update(__metadata__={"x": 1}),
    "a long name": lambda h: h.update({"n" * 600: h.pop("a")}),
}


def write(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def small() -> dict[str, Any]:
    return {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    }


def test_every_type_and_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    tensors = {name: torch.arange(6).to(dtype).reshape(2, 3) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4)}
    with Checkpoint.open(save(tmp_path / "m.safetensors", tensors)) as found:
        assert same({name: found.read(name) for name in found.tensors}, tensors)
        assert found.metadata == {"format": "pt"}


def test_our_headers_are_read_by_safetensors(tmp_path: Path) -> None:
    tensors = llama(0)
    with Checkpoint.open(save(tmp_path / "m.safetensors", tensors)) as found:
        described = list(found.tensors.values())
        data = b"".join(raw(found.read(tensor.name)) for tensor in described)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(pack_header(described, {"format": "pt"}) + data)
    with Checkpoint.open(copy) as again:
        assert same({name: again.read(name) for name in again.tensors}, tensors)


def test_blocks_are_parts_of_the_flat_tensor(tmp_path: Path) -> None:
    save_file({"a": torch.arange(10)}, tmp_path / "m.safetensors")
    with Checkpoint.open(tmp_path / "m.safetensors") as found:
        assert [block.tolist() for block in found.blocks("a", 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("shards", [1, 3])
def test_folders_are_read_with_their_index(tmp_path: Path, shards: int) -> None:
    tensors = llama(0)
    folder = save(tmp_path / "model", tensors, shards)
    for path in (folder, folder / "model.safetensors.index.json"):
        with Checkpoint.open(path) as found:
            assert same({name: found.read(name) for name in found.tensors}, tensors)
            assert [extra.name for extra in found.extras] == ["config.json", "tokenizer.json"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_header_that_contradicts_itself_or_its_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    header = small()
    assert list(read_header(write(tmp_path / "good.safetensors", header, bytes(16)))[0]) == ["a", "b"]
    DAMAGE[damage](header)
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        read_header(write(tmp_path / "bad.safetensors", header, bytes(16)))


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b"[" * 100_000, b'{"a": 1, "a": 2}', b"\xff", b"{}" + b" " * 64], ids=range(6)
)
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        read_header(write(tmp_path / "bad.safetensors", text, bytes(16)))


@pytest.mark.parametrize("size", [0, 7, 8, 40])
def test_a_file_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "bad.safetensors", small(), bytes(16))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match="cut off"):
        read_header(path)


def test_a_length_beyond_the_limit_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(ConfigError, match="no whole header"):
        read_header(path)


def test_pickles_are_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    for path in (tmp_path / "pytorch_model.bin", tmp_path):
        with pytest.raises(ConfigError, match="save_pretrained"):
            Checkpoint.open(path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        Checkpoint.open(tmp_path / "absent")
    with pytest.raises(ConfigError, match="holds no safetensors"):
        Checkpoint.open(tmp_path)
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ConfigError, match="name one of them"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"model.norm.weight": "../other.safetensors"}), "other folders"),
        (lambda w: w.update({"model.norm.weight": "absent.safetensors"}), "absent"),
        (lambda w: w.update({"model.norm.weight": "config.json"}), "no safetensors"),
        (lambda w: w.update({"model.more": "model-00001-of-00002.safetensors"}), "model.more"),
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight"),
        (lambda w: w.update({"model.norm.weight": "model-00001-of-00002.safetensors"}), "model.norm.weight"),
    ],
    ids=range(6),
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    tmp_path: Path, change: Callable[[dict[str, str]], object], message: str
) -> None:
    folder = save(tmp_path / "model", llama(0), 2)
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    home = data["weight_map"]["model.norm.weight"]
    change(data["weight_map"])
    if data["weight_map"].get("model.norm.weight") == home and "model.more" not in data["weight_map"]:
        data["weight_map"]["model.norm.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(folder)


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", {"a": torch.ones(1000)})
    with Checkpoint.open(path) as found:
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(ConfigError, match="became shorter"):
            found.read("a")


def test_what_is_no_model_is_told_apart_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"\.gguf files are not read; convert") as caught:
        Checkpoint.open(tmp_path / "x.gguf")
    assert "code" not in str(caught.value)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    for path in (adapter, adapter / "adapter_model.safetensors"):
        with pytest.raises(ConfigError, match="merge_and_unload"):
            Checkpoint.open(path)
    with pytest.raises(ConfigError, match=r"hf download someone/model-1\.5B"):
        Checkpoint.open(Path("someone/model-1.5B"))
    with pytest.raises(ConfigError, match=r"no such file or folder$"):
        Checkpoint.open(tmp_path / "absent")
