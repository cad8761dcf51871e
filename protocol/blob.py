"""Bytes at rest, read in pieces: a frame in memory or one that lies in a file and may be larger than memory."""

from __future__ import annotations

import hashlib
import io
import os
from typing import BinaryIO, Protocol

from .entropy import Buffer
from .errors import FrameError, Refusal
from .limits import CHUNK_BYTES


class Blob(Protocol):
    """Something of a fixed size that can be read from several threads."""

    def __len__(self) -> int:
        """Size in bytes."""
        ...

    def read(self, offset: int, size: int) -> Buffer:
        """Return `size` bytes from `offset` on; raises FrameError(TRUNCATED) where there are fewer."""
        ...


class MemoryBlob:
    """A buffer."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")

    def __len__(self) -> int:
        return len(self._view)

    def read(self, offset: int, size: int) -> Buffer:
        """See `Blob`."""
        _check(self, offset, size)
        return self._view[offset : offset + size]


class FileBlob:
    """A part of an open file. It owns the descriptor: the file may be unlinked meanwhile."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> Buffer:
        """See `Blob`."""
        _check(self, offset, size)
        data = os.pread(self._descriptor, size, self._start + offset)
        if len(data) != size:
            raise FrameError(Refusal.TRUNCATED, f"the file ends {size - len(data)} bytes too early")
        return data


class Beginning:
    """The first `size` bytes of another blob."""

    def __init__(self, blob: Blob, size: int) -> None:
        self._blob = blob
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> Buffer:
        """See `Blob`."""
        _check(self, offset, size)
        return self._blob.read(offset, size)


def blob_of(data: Buffer | Blob) -> Blob:
    """Return the blob of a buffer, or the blob itself."""
    return MemoryBlob(data) if isinstance(data, bytes | bytearray | memoryview) else data


def written(file: BinaryIO) -> Blob:
    """Return what a file of ours holds by now; it stays readable when the file grows, is renamed or closed."""
    if isinstance(file, io.BytesIO):
        return MemoryBlob(file.getvalue())
    file.flush()
    return FileBlob(os.dup(file.fileno()), 0, os.fstat(file.fileno()).st_size)


def sha256(blob: Blob) -> bytes:
    """Return a blob's SHA-256, read a chunk at a time."""
    digest = hashlib.sha256()
    for start in range(0, len(blob), CHUNK_BYTES):
        digest.update(blob.read(start, min(CHUNK_BYTES, len(blob) - start)))
    return digest.digest()


def _check(blob: Blob, offset: int, size: int) -> None:
    if offset < 0 or offset + size > len(blob):
        raise FrameError(Refusal.TRUNCATED, f"{len(blob)} bytes of {offset + size}")
