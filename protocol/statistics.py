"""What a node measured of its tensors, as bytes that travel beside a frame: README.md has the layout.

Second moments and Fisher information go as sums over rows and columns, m + n numbers for a tensor of m x n; products of
a layer's inputs as a lower triangle. Names and shapes are the manifest's, so none travel.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from .blob import Blob, blob_of
from .entropy import Buffer
from .errors import FrameError, Refusal
from .limits import CHUNK_BYTES, MAX_ATTACHMENT_BYTES, MAX_STATISTIC, STATISTICS_VERSION
from .manifest import Manifest, TensorSpec

KINDS: Final = {"second-moment": 1, "fisher": 2, "gram": 3}
"""Attachments that are statistics, with their numbers in the layout. Append only."""
MAGIC: Final = b"PMRS"
_HEAD: Final = struct.Struct("<4sBBHI")
_CHUNK: Final = CHUNK_BYTES // 4

Values = npt.NDArray[np.float32]


def count(kind: str, spec: TensorSpec) -> int:
    """Return how many numbers say what was measured of a tensor; 0 where nothing can be.

    Tensors that are published in full are merged by the mean: nothing is measured of them.
    """
    if spec.full or not spec.size or len(spec.shape) < 2:
        return 0
    rows, columns = sides(spec)
    if kind == "gram":
        return columns * (columns + 1) // 2 if len(spec.shape) == 2 else 0
    return rows + columns


def sides(spec: TensorSpec) -> tuple[int, int]:
    """Return rows and columns of a tensor of two dimensions or more: the first, and all others as one."""
    return spec.shape[0], spec.size // spec.shape[0]


def max_statistics_bytes(kind: str, manifest: Manifest) -> int:
    """Return the size of these statistics if every tensor is measured that can be; 0 for an unknown kind."""
    if kind not in KINDS:
        return 0
    whole = _HEAD.size + len(manifest.tensors) + 4 * sum(count(kind, spec) for spec in manifest.tensors)
    return min(whole, MAX_ATTACHMENT_BYTES)


def pack(kind: str, measured: Mapping[int, Values], manifest: Manifest) -> bytes:
    """Return statistics as bytes, by the tensors' numbers; raises ValueError for a wrong number of values."""
    tensors = manifest.tensors
    for t, values in measured.items():
        if not count(kind, tensors[t]) or len(values) != count(kind, tensors[t]):
            raise ValueError(f"{len(values)} values of {tensors[t].name}")
    table = bytes(t in measured for t in range(len(tensors)))
    head = _HEAD.pack(MAGIC, STATISTICS_VERSION, KINDS[kind], 0, len(tensors))
    return b"".join([head, table, *(measured[t].astype("<f4").tobytes() for t in sorted(measured))])


class Statistics:
    """One contributor's statistics of one kind. They stay where they lie and are read tensor by tensor."""

    def __init__(self, kind: str, manifest: Manifest, blob: Blob, starts: Mapping[int, int]) -> None:
        self.kind = kind
        self._manifest = manifest
        self._blob = blob
        self._starts = starts

    @classmethod
    def open(cls, data: Buffer | Blob, kind: str, manifest: Manifest) -> Statistics:
        """Check all of it, a chunk at a time; raises FrameError for what is not these statistics of this model."""
        blob = blob_of(data)
        if len(blob) > max_statistics_bytes(kind, manifest):
            raise FrameError(Refusal.OVERSIZE, f"{len(blob)} bytes of {kind}")
        measured = _table(blob, kind, manifest)
        starts, at = {}, _HEAD.size + len(manifest.tensors)
        for t in measured:
            starts[t] = at
            at += 4 * count(kind, manifest.tensors[t])
        if len(blob) != at:
            refusal = Refusal.TRUNCATED if len(blob) < at else Refusal.BAD_HEADER
            raise FrameError(refusal, f"{len(blob)} bytes of {at}")
        opened = cls(kind, manifest, blob, starts)
        for t in measured:
            opened._check(t)
        return opened

    def __contains__(self, t: int) -> bool:
        """Whether tensor t was measured."""
        return t in self._starts

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the tensors that were measured."""
        return iter(self._starts)

    def values(self, t: int) -> Values:
        """Return what was measured of tensor t: row sums and then column sums, or a lower triangle by rows."""
        return self._read(t, 0, count(self.kind, self._manifest.tensors[t]))

    def sums(self, t: int) -> tuple[Values, Values]:
        """Return the sums over the rows and over the columns of tensor t."""
        rows, _ = sides(self._manifest.tensors[t])
        values = self.values(t)
        return values[:rows], values[rows:]

    def _read(self, t: int, first: int, size: int) -> Values:
        data = self._blob.read(self._starts[t] + 4 * first, 4 * size)
        return np.frombuffer(data, "<f4").astype(np.float32)

    def _check(self, t: int) -> None:
        """Raise FrameError unless the values are finite, modest, and not negative where they are sums of squares."""
        spec = self._manifest.tensors[t]
        size, squares = count(self.kind, spec), diagonal(sides(spec)[1] if self.kind == "gram" else 0)
        for first in range(0, size, _CHUNK):
            chunk = self._read(t, first, min(_CHUNK, size - first))
            if not np.isfinite(chunk).all():
                raise FrameError(Refusal.NON_FINITE, f"{self.kind} of {spec.name}")
            if (np.abs(chunk) > MAX_STATISTIC).any():
                raise FrameError(Refusal.OVERFLOW, f"{self.kind} of {spec.name}")
            if self.kind == "gram":
                chunk = chunk[squares[(squares >= first) & (squares < first + len(chunk))] - first]
            if (chunk < 0).any():
                raise FrameError(Refusal.BAD_HEADER, f"negative {self.kind} of {spec.name}")


def diagonal(side: int) -> npt.NDArray[np.int64]:
    """Return the places of the diagonal in the lower triangle of a square, which lies row by row."""
    rows = np.arange(side, dtype=np.int64)
    return rows * (rows + 3) // 2


def norm(statistics: Statistics) -> float:
    """Return the root mean square, over all tensors measured, of what row and column sums stand for; 0 of nothing."""
    total, entries = 0.0, 0
    for t in statistics:
        rows, columns = (sums.astype(np.float64) for sums in statistics.sums(t))
        if whole := float(columns.sum()):
            total += float(rows @ rows) / whole * (float(columns @ columns) / whole)
        entries += len(rows) * len(columns)
    return math.sqrt(total / entries) if entries else 0.0


def _table(blob: Blob, kind: str, manifest: Manifest) -> list[int]:
    """Return the numbers of the tensors that were measured."""
    head = bytes(blob.read(0, min(_HEAD.size, len(blob))))
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise FrameError(Refusal.BAD_MAGIC, "statistics")
    if len(head) < _HEAD.size:
        raise FrameError(Refusal.TRUNCATED, "statistics")
    _, version, number, reserved, tensors = _HEAD.unpack(head)
    if version != STATISTICS_VERSION or reserved:
        raise FrameError(Refusal.UNSUPPORTED_VERSION, f"statistics of version {version}")
    if number != KINDS[kind]:
        raise FrameError(Refusal.BAD_HEADER, f"statistics of kind {number}, not {kind}")
    if tensors != len(manifest.tensors):
        raise FrameError(Refusal.MANIFEST_MISMATCH, f"statistics of {tensors} tensors")
    table = np.frombuffer(blob.read(_HEAD.size, tensors), np.uint8)
    if (table > 1).any():
        raise FrameError(Refusal.BAD_HEADER, "the table of statistics")
    measured: list[int] = np.flatnonzero(table).tolist()
    if any(not count(kind, manifest.tensors[t]) for t in measured):
        raise FrameError(Refusal.BAD_HEADER, f"{kind} of a tensor that has none")
    return measured
