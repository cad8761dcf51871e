"""Read a model's files tensor by tensor, in blocks: memory does not grow with the file.

Files are read, not mapped: pages of a mapped file count as this process's memory until somebody else needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from ..merging.rows import BLOCK, fill
from .header import Stored, read_header

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
REPORT: Final = "peermerge.json"
"""What a merge says of itself in the folder it wrote: it is true of no other."""
WEIGHTS: Final = frozenset({".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"})
"""How files end that hold weights: they are never carried along."""
CODE: Final = frozenset({".bin", ".ckpt", ".pt", ".pth"})
"""Those of them that are pickles."""
ADAPTER: Final = "adapter_config.json"
ADAPTER_ALONE: Final = (
    "an adapter and no model: merge it into its base first, with PEFT's merge_and_unload() and save_pretrained(folder)"
)
CURE: Final = "convert it first: load it and call save_pretrained(folder), or safetensors.torch.save_file"


class Checkpoint:
    """A model in files, open for reading: one safetensors file, several with their index, or a folder with either."""

    def __init__(self, path: Path, files: tuple[Path, ...], beside: Sequence[Path] = ()) -> None:
        self.path = path
        self.files = files
        self.extras = sorted(path for path in beside if path.is_file() and _is_extra(path))
        """What stands beside the weights: configuration, tokenizer, and the like."""
        known = {path.name for path in (*files, *self.extras)} | {INDEX, REPORT}
        self.left_behind = sorted(path.name for path in beside if path.name not in known and path.name[0] != ".")
        """What else stands there: folders, and weights in other forms."""
        self.tensors: dict[str, Stored] = {}
        self.metadata: dict[str, str] = {}
        self._open = ExitStack()
        self._descriptors: dict[Path, int] = {}
        self._digests: dict[str, bytes] = {}
        self._part = bytearray()
        for file in files:
            tensors, metadata = read_header(file)
            if doubled := tensors.keys() & self.tensors.keys():
                raise ConfigError(f"{path}: tensor {min(doubled)!r} stands in two files")
            self.tensors |= tensors
            self.metadata = metadata | self.metadata

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open what a path leads to. Raises ConfigError that names the file and the cure."""
        if path.is_dir():
            return cls._folder(path, path / INDEX)
        if path.name.endswith(".index.json"):
            return cls._folder(path.parent, path)
        if not path.exists():
            hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) and path.suffix not in WEIGHTS
            cure = f"; a name on a hub? Download it first: hf download {path} --local-dir {path.name}" if hub else ""
            raise ConfigError(f"{path}: no such file or folder{cure}")
        if path.suffix == ".pmd":
            raise ConfigError(f"{path}: a delta file stands for no model alone: `peermerge delta apply` it first")
        if path.suffix in WEIGHTS - {".safetensors"}:
            raise ConfigError(f"{path}: {_refused(path)}")
        if path.stem == "adapter_model":
            raise ConfigError(f"{path}: {ADAPTER_ALONE}")
        return cls(path, (path,))

    @classmethod
    def _folder(cls, folder: Path, index: Path) -> Self:
        beside = list(folder.iterdir())
        if (folder / ADAPTER).exists() and not index.exists() and not (folder / SINGLE).exists():
            raise ConfigError(f"{folder}: {ADAPTER_ALONE}")
        if index.exists():
            names = _files_of(index)
            found = cls(folder, tuple(folder / name for name in sorted(set(names.values()))), beside)
            for name in names.keys() ^ found.tensors.keys():
                raise ConfigError(f"{index}: tensor {name!r} stands either in the index or in a file, not in both")
            for name, file in names.items():
                if found.tensors[name].file.name != file:
                    raise ConfigError(f"{index}: tensor {name!r} is not in {file}, where the index has it")
            return found
        files = sorted(folder.glob("*.safetensors"))
        if len(files) == 1 or folder / SINGLE in files:
            return cls(folder, (folder / SINGLE if folder / SINGLE in files else files[0],), beside)
        if files:
            raise ConfigError(f"{folder}: {len(files)} safetensors files and no {INDEX}; name one of them")
        others = sorted(p.name for p in folder.iterdir() if p.suffix in WEIGHTS)
        if others:
            raise ConfigError(f"{folder}: {others[0]}: {_refused(Path(others[0]))}")
        raise ConfigError(f"{folder}: holds no safetensors file")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.close()
        self._descriptors.clear()

    def blocks(self, name: str, entries: int = BLOCK) -> Iterator[Tensor]:
        """Yield the tensor's entries, flat, so many at a time; each block is valid until the next is asked for."""
        stored = self.tensors[name]
        buffer = bytearray(min(entries, stored.size) * stored.dtype.itemsize)
        for start in range(0, stored.size, entries):
            count = min(entries, stored.size - start)
            view = memoryview(buffer)[: count * stored.dtype.itemsize]
            self._read(stored, start * stored.dtype.itemsize, view)
            yield torch.frombuffer(view, dtype=stored.dtype)

    def fill_part(self, name: str, start: int, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.PartSource`."""
        stored = self.tensors[name]
        size = stored.dtype.itemsize
        if len(self._part) < len(row) * size:
            self._part = bytearray(len(row) * size)
        view = memoryview(self._part)[: len(row) * size]
        self._read(stored, start * size, view)
        where = f"{self.path}: {name!r} (--ignore {name} takes the base's)"
        fill(row, [torch.frombuffer(view, dtype=stored.dtype)], ground, where)

    def read(self, name: str) -> Tensor:
        """Return the whole tensor in its shape and type."""
        stored = self.tensors[name]
        if not stored.size:
            return torch.empty(stored.shape, dtype=stored.dtype)
        [block] = self.blocks(name, stored.size)
        return block.view(stored.shape)

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.Source`."""
        size = BLOCK if row.device.type == "cpu" else max(1, len(row))
        for start in range(0, len(row), size):
            part = slice(start, start + size)
            self.fill_part(name, start, row[part], None if ground is None else ground[part])

    def digest(self, name: str) -> bytes:
        """Return the SHA-256 of the tensor's bytes."""
        if name not in self._digests:
            digest = hashlib.sha256()
            for block in self.blocks(name):
                digest.update(block.view(torch.uint8).numpy().data)
            self._digests[name] = digest.digest()
        return self._digests[name]

    def ties_embeddings(self) -> bool:
        """Say whether the configuration beside the weights says that output layer and embedding are one."""
        file = next((path for path in self.extras if path.name == "config.json"), None)
        try:
            data = {} if file is None else json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False  # it is somebody else's file: whoever loads the model will say so
        return isinstance(data, dict) and data.get("tie_word_embeddings") is True

    def fingerprint(self) -> str:
        """Return what tells these files from others without reading their weights: headers, sizes, times of change."""
        digest = hashlib.sha256()
        for file in self.files:
            state = file.stat()
            digest.update(repr((file.name, state.st_size, state.st_mtime_ns)).encode())
        digest.update(repr([(t.name, str(t.dtype), t.shape) for t in self.tensors.values()]).encode())
        return digest.hexdigest()

    def _read(self, stored: Stored, begin: int, view: memoryview) -> None:
        try:
            if stored.file not in self._descriptors:
                descriptor = os.open(stored.file, os.O_RDONLY)
                self._open.callback(os.close, descriptor)
                self._descriptors[stored.file] = descriptor
            done = 0
            while done < len(view):
                step = os.preadv(self._descriptors[stored.file], [view[done:]], stored.offset + begin + done)
                if not step:
                    raise ConfigError(f"{stored.file}: became shorter while it was read")
                done += step
        except OSError as error:
            raise ConfigError(f"{stored.file}: cannot be read: {error.strerror}") from error


def _refused(path: Path) -> str:
    """Say why weights of this form are not read, and what to do."""
    if path.suffix in CODE:
        return f"{path.suffix} files are not read, as they can run code; {CURE}"
    return f"{path.suffix} files are not read; convert to safetensors first, or take the safetensors of the same model"


def _is_extra(path: Path) -> bool:
    hidden, index = path.name.startswith("."), path.name.endswith(".index.json")
    return not hidden and not index and path.suffix not in WEIGHTS and path.name != REPORT


def _files_of(index: Path) -> dict[str, str]:
    """Return the file of every tensor by an index, each in the index's own folder."""
    try:
        names: dict[Any, Any] = json.loads(index.read_bytes())["weight_map"]
        if not all(isinstance(file, str) and Path(file).name == file != ".." for file in names.values()):
            raise ValueError("it leads to other folders")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{index}: not a readable index of shards: {error}") from error
    for file in set(names.values()):
        if Path(file).suffix != ".safetensors" or not (index.parent / file).exists():
            raise ConfigError(f"{index}: {file} is missing, or no safetensors file")
    return names
