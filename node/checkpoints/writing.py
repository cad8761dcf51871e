"""Write a model tensor by tensor into a folder beside its place, and move it there once it is whole.

`OUT.partial` holds the files, at their full sizes from the start, and a journal: what they are made of, and which
tensors are on the disk. Whoever makes the same model again finds them there and goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import torch
from torch import Tensor

from ...protocol.errors import ConfigError, DegradedError
from ..merging.rows import BLOCK
from .header import Described, pack_header
from .layout import Files, index_of
from .reading import INDEX, WEIGHTS

JOURNAL: Final = "journal.json"
RESERVE: Final = "journal.reserve"
"""As many bytes as the journal will need: given back to a full disk, so that what is done can be noted."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_MODEL: Final = (WEIGHTS - {".safetensors"}) | {".json", ".yaml", ".yml", ".toml", ".pmd"}
"""How a place for a model does not end."""
SLACK: Final = 1 << 12
ENOUGH: Final = 1 << 28
"""Bytes written between two entries of the journal, which wait for the disk."""


class Output:
    """A model being written. Leaving the context with an error keeps what is done."""

    def __init__(self, out: Path, files: Files, metadata: Mapping[str, str], made_of: str) -> None:
        """Open the partial folder; go on where a run with the same text `made_of` stopped.

        Raises ConfigError if something stands at `out`, or the folder cannot be written.
        """
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.files = files
        self.done: set[str] = set()
        """The tensors that are written."""
        self._key = hashlib.sha256(made_of.encode()).hexdigest()
        self._places: dict[str, tuple[int, int]] = {}
        self._descriptors: list[int] = []
        self._pending = 0
        if out.suffix in NO_MODEL:
            raise ConfigError(f"{out}: models are written as a .safetensors file or a folder: name one of these")
        if out.exists():
            raise ConfigError(f"{out}: exists; name another place, or remove it")
        if not out.absolute().parent.is_dir():
            raise ConfigError(f"{out}: there is no folder {out.parent}")
        with self._told():
            self._begin()
            for name, tensors in files.items():
                self._open(name, tensors, metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; after an error, note what is done."""
        try:
            if kind is not None and self._descriptors:
                self._note()
        except OSError:
            pass  # the error that led here says more
        finally:
            self._close()

    def write(self, tensor: Described, flat: Tensor) -> None:
        """Write a tensor's entries, cast to its type in blocks."""
        if flat.device.type != "cpu":
            flat = flat.to(tensor.dtype).cpu()
        if flat.dtype == tensor.dtype:
            self.copy(tensor, [flat])
            return
        scratch = torch.empty(min(BLOCK, len(flat)), dtype=tensor.dtype)
        self.copy(tensor, (scratch[: len(part)].copy_(part) for part in flat.split(BLOCK)))

    def copy(self, tensor: Described, blocks: Iterable[Tensor]) -> None:
        """Write a tensor's entries as they are, block by block."""
        descriptor, offset = self._places[tensor.name]
        end = offset + tensor.nbytes
        with self._told():
            for block in blocks:
                view = block.contiguous().view(torch.uint8).numpy().data
                while view:
                    step = os.pwrite(descriptor, view, offset)
                    view, offset = view[step:], offset + step
        if offset != end:
            raise ValueError(f"{tensor.name}: {end - offset} bytes are missing")
        self.done.add(tensor.name)
        self._pending += tensor.nbytes
        if self._pending >= ENOUGH:
            with self._told():
                self._note()

    def finish(self, extras: Sequence[Path] = (), texts: Mapping[str, bytes] | None = None) -> None:
        """Move the model to its place; a folder gets the index of its files, copies of `extras`, and further files."""
        with self._told():
            self._note()
            self._close()
            (self.partial / RESERVE).unlink(missing_ok=True)
            if self.out.suffix == ".safetensors":
                os.replace(self.partial / self.out.name, self.out)
                shutil.rmtree(self.partial)
                return
            for path in extras:
                shutil.copyfile(path, self.partial / path.name)
            index = index_of(self.files)
            for name, data in {**(texts or {}), **({INDEX: index} if index else {})}.items():
                (self.partial / name).write_bytes(data)
            os.replace(self.partial, self.out)
            (self.out / JOURNAL).unlink()

    def _begin(self) -> None:
        """Take over what an equal run left; make room if it was another."""
        if self.partial.exists():
            journal = self.partial / JOURNAL
            if not journal.is_file():
                raise ConfigError(f"{self.partial}: not left by a merge that stopped; remove it")
            try:
                left = json.loads(journal.read_bytes())
                if left["key"] == self._key:
                    self.done = {str(name) for name in left["done"]}
            except (ValueError, TypeError, KeyError):
                pass
            if not self.done:
                shutil.rmtree(self.partial)
        self.partial.mkdir(exist_ok=True)
        self._write_journal()
        names = [tensor.name for tensors in self.files.values() for tensor in tensors]
        (self.partial / RESERVE).write_bytes(bytes(len(self._journal(names)) + SLACK))

    def _open(self, name: str, tensors: Sequence[Described], metadata: Mapping[str, str]) -> None:
        head = pack_header(tensors, metadata)
        descriptor = os.open(self.partial / name, os.O_RDWR | os.O_CREAT, 0o666)
        self._descriptors.append(descriptor)
        os.ftruncate(descriptor, len(head) + sum(tensor.nbytes for tensor in tensors))
        os.pwrite(descriptor, head, 0)
        offset = len(head)
        for tensor in tensors:
            self._places[tensor.name] = descriptor, offset
            offset += tensor.nbytes

    def _note(self) -> None:
        for descriptor in self._descriptors:
            os.fsync(descriptor)
        self._write_journal()
        self._pending = 0

    def _write_journal(self) -> None:
        new = self.partial / (JOURNAL + ".new")
        try:
            _store(new, self._journal(self.done))
        except OSError as error:
            new.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise
            (self.partial / RESERVE).unlink(missing_ok=True)
            _store(new, self._journal(self.done))
        os.replace(new, self.partial / JOURNAL)

    def _journal(self, done: Iterable[str]) -> bytes:
        return json.dumps({"key": self._key, "done": sorted(done)}).encode()

    def _close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            left = sum(t.nbytes for tensors in self.files.values() for t in tensors if t.name not in self.done)
            refuse(
                error, self.partial, f"make room for {left:,} bytes more and run the same command: it goes on from here"
            )


def refuse(error: OSError, path: Path, cure: str) -> NoReturn:
    """Raise what an error at writing means to people: a full disk is nobody's wrong choice."""
    if error.errno in FULL:
        raise DegradedError(f"{path}: the disk is full: {cure}") from error
    raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _store(path: Path, data: bytes) -> None:
    """Write a small file through to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
