"""Durable bytes under names: a folder that survives a kill and a power cut, or a dict for simulations."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol

from ..protocol.blob import Blob, FileBlob, MemoryBlob
from ..protocol.errors import DataDirError, DegradedError
from ..protocol.limits import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that nobody finds before it is committed: left without that, it never was."""

    file: BinaryIO
    commit: Callable[[], None]
    """Replace what stands under the draft's name, at once and whole."""


class Storage(Protocol):
    """Where a node keeps what must outlive it. Names are our own; no peer ever chooses one."""

    def create(self, name: str, *, durable: bool = True) -> AbstractContextManager[Draft]:
        """Lend a draft of `name`. What was committed (and is `durable`) no power cut undoes. Raises DegradedError."""
        ...

    def open(self, name: str) -> Blob | None:
        """Return what stands under a name, to be read in pieces, or None; it stays readable if the name goes."""
        ...

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Create and commit in one step. Raises DegradedError."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes, or None where there is no such name."""
        ...

    def scratch(self, size: int) -> BinaryIO:
        """Return a file without a name for `size` bytes that need not outlive the process. Raises DegradedError."""
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

    @contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[Draft]:
        """Lend a buffer."""
        file = io.BytesIO()
        yield Draft(file, lambda: self._data.update({name: file.getvalue()}))

    def open(self, name: str) -> Blob | None:
        """Return the bytes kept, in pieces."""
        return MemoryBlob(self._data[name]) if name in self._data else None

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Keep the bytes."""
        with self.create(name, durable=durable) as draft:
            draft.file.write(data)
            draft.commit()

    def read(self, name: str) -> bytes | None:
        """Return the bytes kept."""
        return self._data.get(name)

    def scratch(self, size: int) -> BinaryIO:
        """Return a buffer."""
        return io.BytesIO()

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

    @contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[Draft]:
        """Lend a temporary file that a commit syncs and renames. Raises DegradedError for what the disk refuses."""
        path = self.root / name
        temporary = path.with_name(path.name + ".tmp")
        try:
            if not path.parent.exists():
                _make_folder(path.parent)
            with open(temporary, "w+b") as file:
                yield Draft(file, partial(_commit, file, temporary, path, durable))
        except OSError as error:
            raise DegradedError(f"{path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def open(self, name: str) -> Blob | None:
        """Open a file; raises DataDirError if it is there but cannot be."""
        try:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataDirError(f"{self.root / name}: {error.strerror or error}") from error
        return FileBlob(descriptor, 0, os.fstat(descriptor).st_size)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file. Raises DegradedError."""
        with self.create(name, durable=durable) as draft:
            draft.file.write(data)
            draft.commit()

    def read(self, name: str) -> bytes | None:
        """Read a file; raises DataDirError if it is there but unreadable."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataDirError(f"{self.root / name}: {error.strerror or error}") from error

    def scratch(self, size: int) -> BinaryIO:
        """Return a file of the directory without a name there, or a buffer for no more than a chunk."""
        if size <= CHUNK_BYTES:
            return io.BytesIO()
        try:
            return TemporaryFile(dir=self.root, suffix=".tmp")
        except OSError as error:
            raise DegradedError(f"{self.root}: {error.strerror or error}") from error

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


def _commit(file: BinaryIO, temporary: Path, path: Path, durable: bool) -> None:
    """Flush and sync the file, rename it, sync its folder."""
    file.flush()
    if durable:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder that no power cut takes away, or none: a later attempt would not sync one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sync_folder(folder.parent)
    except OSError:
        folder.rmdir()
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable: without this a power cut can leave an empty file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
