"""Durable bytes under names: a folder that survives a kill and a power cut, or a dict for simulations."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..protocol.errors import DataDirError, DegradedError


class Storage(Protocol):
    """Where a node keeps what must outlive it. Names are our own; no peer ever chooses one."""

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Replace `name` at once and whole; when this returns (and `durable`) a power cut cannot undo it."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes, or None where there is no such name."""
        ...

    def names(self, folder: str) -> list[str]:
        """List the names in a folder, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Forget a name; not an error if there is none. Raises DegradedError."""
        ...


class MemoryStorage:
    """A dict."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Keep the bytes."""
        self._data[name] = data

    def read(self, name: str) -> bytes | None:
        """Return the bytes kept."""
        return self._data.get(name)

    def names(self, folder: str) -> list[str]:
        """List the names that start with the folder."""
        return sorted(n for n in self._data if n.startswith(folder + "/"))

    def remove(self, name: str) -> None:
        """Drop the bytes."""
        self._data.pop(name, None)


class DiskStorage:
    """A data directory, locked by this process for as long as it lives (or only read, without the lock)."""

    def __init__(self, root: Path, *, lock: bool = True) -> None:
        self.root = root
        self._lock = -1
        if lock:
            self._acquire()

    def _acquire(self) -> None:
        root = self.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(
                f"{root}: cannot be used as a data directory: {error.strerror or error}; "
                "make it writable for this user or choose another --data-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DataDirError(
                f"{root}: another process uses this data directory; stop it or choose another --data-dir"
            ) from None
        for leftover in root.rglob("*.tmp"):
            with suppress(OSError):
                leftover.unlink()

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a temporary file, fsync it, rename it, fsync the folder. Raises DegradedError."""
        path = self.root / name
        temporary = path.with_name(path.name + ".tmp")
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(path.parent.parent)
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise DegradedError(f"{path}: {error.strerror or error}") from error

    def read(self, name: str) -> bytes | None:
        """Read a file; raises DataDirError if it is there but unreadable."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataDirError(f"{self.root / name}: {error.strerror or error}") from error

    def names(self, folder: str) -> list[str]:
        """List the files of one folder as `folder/name`."""
        try:
            return sorted(f"{folder}/{p.name}" for p in (self.root / folder).iterdir() if p.suffix != ".tmp")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataDirError(f"{self.root / folder}: {error.strerror or error}") from error

    def remove(self, name: str) -> None:
        """Unlink a file. Raises DegradedError."""
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise DegradedError(f"{self.root / name}: {error.strerror or error}") from error

    def close(self) -> None:
        """Let the lock go."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable: without this a power cut can leave an empty file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
