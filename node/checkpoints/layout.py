"""Which tensor of a model to be written goes into which file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ...protocol.errors import ConfigError
from .header import Described
from .reading import SINGLE, Checkpoint

Files: TypeAlias = Mapping[str, Sequence[Described]]
"""The tensors of every file, in order."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def arrange(out: Path, like: Checkpoint, tensors: Sequence[Described], shard_bytes: int | None) -> Files:
    """Return the files of a model: one, if that is what `out` names, else a folder with shards like another model's.

    With `shard_bytes` the shards are filled up to that size instead.
    """
    if out.suffix == ".safetensors":
        return {out.name: tensors}
    if shard_bytes is not None:
        return _numbered(_filled(tensors, shard_bytes))
    if len(like.files) == 1:
        return {SINGLE: tensors}
    homes = {name: stored.file.name for name, stored in like.tensors.items()}
    last = like.files[-1].name
    shards = [[t for t in tensors if homes.get(t.name, last) == file.name] for file in like.files]
    return _numbered([shard for shard in shards if shard])


def index_of(files: Files) -> bytes | None:
    """Return the index of several files, None where there is but one."""
    if len(files) == 1:
        return None
    total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors)
    where = {tensor.name: file for file, tensors in files.items() for tensor in tensors}
    data: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(data, indent=2).encode() + b"\n"


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 5GB or 500MB. Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"{text!r} is no size: write one such as 5GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _filled(tensors: Iterable[Described], most: int) -> list[list[Described]]:
    shards: list[list[Described]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > most:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def _numbered(shards: Sequence[Sequence[Described]]) -> Files:
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    stem, count = SINGLE.removesuffix(".safetensors"), len(shards)
    return {f"{stem}-{n:05d}-of-{count:05d}.safetensors": shard for n, shard in enumerate(shards, 1)}
