"""Bytes at rest, read in pieces: a frame in memory or one that lies in a file and may be larger than memory."""

from __future__ import annotations

import os
from typing import Protocol

from .entropy import Buffer
from .errors import FrameError, Refusal


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
        if offset + size > len(self._view):
            raise FrameError(Refusal.TRUNCATED, f"{len(self._view)} bytes of {offset + size}")
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
        data = os.pread(self._descriptor, size, self._start + offset) if offset + size <= self._size else b""
        if len(data) != size:
            raise FrameError(Refusal.TRUNCATED, f"{self._size} bytes of {offset + size}")
        return data


def blob_of(data: Buffer | Blob) -> Blob:
    """Return the blob of a buffer, or the blob itself."""
    return MemoryBlob(data) if isinstance(data, bytes | bytearray | memoryview) else data
