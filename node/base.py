"""The base as one run of bytes: every tensor's own in the manifest's order, as the base's digest counts them.

So it travels: nothing in it is to be parsed, its length follows from the manifest, it is the same on every node
that has this base, and what does not take part stays at home.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ..protocol.blob import Blob
from ..protocol.entropy import Buffer
from ..protocol.errors import DataDirError, FrameError, Refusal
from ..protocol.manifest import Manifest
from .storage import Storage

FILE = "base.safetensors"
"""Where a data directory keeps the base, with what does not take part."""


def sizes(manifest: Manifest) -> list[int]:
    """Return the number of bytes of every tensor."""
    return [math.prod(spec.shape) * _dtype(spec.dtype).itemsize for spec in manifest.tensors]


class BaseBlob:
    """A base, read from where its tensors lie in a safetensors file."""

    def __init__(self, file: Blob, starts: Sequence[int], lengths: Sequence[int]) -> None:
        self._file = file
        self._starts = starts
        self._begins = [0, *accumulate(lengths)]

    def __len__(self) -> int:
        return self._begins[-1]

    def read(self, offset: int, size: int) -> Buffer:
        """See `Blob`."""
        if offset < 0 or offset + size > len(self):
            raise FrameError(Refusal.TRUNCATED, f"{len(self)} bytes of {offset + size}")
        found = bytearray()
        while len(found) < size:
            here = offset + len(found)
            t = bisect_right(self._begins, here) - 1
            part = min(self._begins[t + 1], offset + size) - here
            found += self._file.read(self._starts[t] + here - self._begins[t], part)
        return bytes(found)


def kept_base(storage: Storage, manifest: Manifest) -> Blob | None:
    """Return the base that a data directory keeps, or None. Raises DataDirError if the file is not what we wrote."""
    if (file := storage.open(FILE)) is None:
        return None
    lengths = sizes(manifest)
    try:
        size = int.from_bytes(file.read(0, 8), "little")
        header = json.loads(bytes(file.read(8, size)))
        places = [header[spec.name]["data_offsets"] for spec in manifest.tensors]
    except (FrameError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataDirError(f"{FILE} is damaged: {error}") from error
    if [end - begin for begin, end in places] != lengths:
        raise DataDirError(f"{FILE} is of another model")
    return BaseBlob(file, [8 + size + begin for begin, _ in places], lengths)


def read_base(path: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Return the tensors of a base that lies in a file as it travelled."""
    lengths = sizes(manifest)
    flat = torch.from_file(str(path), shared=False, size=sum(lengths), dtype=torch.uint8)
    return {
        # A copy of its own: a view of another type must begin at a multiple of its size.
        spec.name: part.clone().view(_dtype(spec.dtype)).view(spec.shape)
        for spec, part in zip(manifest.tensors, flat.split(lengths), strict=True)
    }


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype
