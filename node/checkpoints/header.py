"""The header of a safetensors file, checked before anything it says is believed.

length of the header (u64, little-endian) | header (JSON: name -> dtype, shape, data_offsets) | tensors
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

from ...protocol.errors import ConfigError
from ...protocol.limits import MAX_NAME, MAX_TENSORS

LENGTH: Final = struct.Struct("<Q")
MAX_HEADER: Final = 100_000_000
"""As the reference implementation has it."""
MAX_DIMENSIONS: Final = 64

DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""Types by the names that files use; every one is stored little-endian."""
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
MERGED: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types whose values are weights. Others are numbers of something, or stand for values only beside their scales."""

QUANTISED: Final = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
"""Types whose values are weights only beside their scales, by the look of it: integers may be anything."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a file says of a tensor, wherever it lies."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stored(Described):
    """A tensor in a file: its bytes begin at `offset`."""

    file: Path
    offset: int


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a file in the order in which they lie there, and its metadata. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(LENGTH.size)
            length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else size
            if length > min(MAX_HEADER, size - LENGTH.size):
                raise ConfigError(f"{path}: not a safetensors file, or cut off: it has no whole header")
            text = file.read(length)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text, object_pairs_hook=_without_doubles)
        metadata = data.pop("__metadata__", {})
        start = LENGTH.size + length
        found = [_stored(path, name, record, start) for name, record in data.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a safetensors file: its header is damaged ({error})") from error
    if len(found) > MAX_TENSORS:
        raise ConfigError(f"{path}: {len(found)} tensors; at most {MAX_TENSORS} are read")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ConfigError(f"{path}: not a safetensors file: its metadata is not a table of texts")
    found.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    ends = [start, *(tensor.offset + tensor.nbytes for tensor in found)]
    if any(tensor.offset != end for tensor, end in zip(found, ends, strict=False)) or ends[-1] != size:
        raise ConfigError(f"{path}: damaged or cut off: its tensors overlap, leave gaps, or do not end with the file")
    return {tensor.name: tensor for tensor in found}, metadata


def pack_header(tensors: Sequence[Described], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a file that holds these tensors one after the other, its length first."""
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + tensor.nbytes)
    data: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for tensor, offsets in zip(tensors, pairwise(starts), strict=True):
        data[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": offsets}
    text = json.dumps(data, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return LENGTH.pack(len(text)) + text


def check_shape(shape: object) -> tuple[int, ...]:
    """Return a shape read from a file. Raises ValueError unless it is one."""
    whole = isinstance(shape, list) and all(type(n) is int and 0 <= n < 1 << 60 for n in shape)
    if not isinstance(shape, list) or not whole or len(shape) > MAX_DIMENSIONS or math.prod(shape) >= 1 << 60:
        raise ValueError(f"impossible shape {shape!r:.80}")
    return tuple(shape)


def _stored(path: Path, name: str, record: Mapping[str, Any], start: int) -> Stored:
    if record["dtype"] not in DTYPES:
        raise ValueError(f"{name!r} has the unknown type {record['dtype']!r:.40}")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters")
    begin, end = record["data_offsets"]
    tensor = Stored(name, DTYPES[record["dtype"]], check_shape(record["shape"]), path, start + begin)
    if type(begin) is not int or begin < 0 or end != begin + tensor.nbytes:
        raise ValueError(f"the offsets of {name!r} do not fit its shape")
    return tensor


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table
