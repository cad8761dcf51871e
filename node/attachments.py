"""What travels beside a frame: kept under its digest for those who pull, and received before it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

from ..protocol.blob import Blob, MemoryBlob, written
from ..protocol.errors import DataDirError, DegradedError, EnvelopeError, FrameError, PeermergeError, Refusal
from ..protocol.messages import Attachment
from .storage import Storage

FOLDER = "statistics"


def keep(storage: Storage, packed: Mapping[str, bytes]) -> tuple[Attachment, ...]:
    """Write attachments down and return what a header says of them, in order of kind. Raises DegradedError."""
    announced = [Attachment(kind, len(data), hashlib.sha256(data).digest()) for kind, data in sorted(packed.items())]
    for attachment in announced:
        storage.write(_name(attachment), packed[attachment.kind], durable=False)
    return tuple(announced)


def kept(storage: Storage, announced: Sequence[Attachment]) -> dict[int, Blob]:
    """Return what is still there of what a header announces, by its place in the list."""
    found = {}
    for number, attachment in enumerate(announced):
        with suppress(DataDirError):
            if blob := storage.open(_name(attachment)):
                found[number] = blob
    return found


def sweep(storage: Storage, announced: Iterable[Attachment]) -> None:
    """Forget all other attachments."""
    current = {_name(attachment) for attachment in announced}
    with suppress(DegradedError, DataDirError):
        for name in storage.names(FOLDER):
            if name not in current:
                storage.remove(name)


def _name(attachment: Attachment) -> str:
    return f"{FOLDER}/{attachment.sha256.hex()}"


class Arrivals:
    """The attachments of one header on their way, behind its frame.

    One that is damaged or incomplete is refused by name and harms nothing else. Where one begins that nobody wants, or
    that is larger than its kind can be, nothing more is read: the frame does not wait for what is of no use.
    """

    def __init__(
        self, announced: Sequence[Attachment], limits: Mapping[str, int], scratch: Callable[[int], BinaryIO]
    ) -> None:
        # limits: the kinds that are wanted, with the most bytes each may have.
        self._announced = announced
        self._limits = limits
        self._scratch = scratch
        self._sizes = [0] * len(announced)
        self._wanted = {a.kind: n for n, a in reversed(list(enumerate(announced))) if a.kind in limits}
        self._files: dict[int, BinaryIO] = {}
        self._digests = {n: hashlib.sha256() for n in self._wanted.values()}
        self._failed: dict[int, PeermergeError] = {}

    @property
    def expected(self) -> bool:
        """Whether something was announced that is wanted."""
        return bool(self._wanted)

    @property
    def begun(self) -> bool:
        """Whether any byte has come."""
        return any(self._sizes)

    def add(self, payload: memoryview) -> bool:
        """Take a part: an attachment's place in the list, and its next bytes; return whether it is of use.

        Raises FrameError for more than was announced.
        """
        if not payload or payload[0] >= len(self._announced):
            raise FrameError(Refusal.BAD_HEADER, "an attachment that was not announced")
        number, data = payload[0], payload[1:]
        attachment = self._announced[number]
        self._sizes[number] += len(data)
        if self._sizes[number] > attachment.length:
            raise FrameError(Refusal.OVERSIZE, f"more bytes of {attachment.kind} than announced")
        if number not in self._digests or attachment.length > self._limits[attachment.kind]:
            return False
        if number not in self._failed:
            self._digests[number].update(data)
            self._write(number, data)
        return True

    def result(self) -> dict[str, Blob | PeermergeError]:
        """Return what came of every kind that is wanted, or why it is of no use."""
        return {kind: self._result(kind) for kind in self._limits}

    def close(self) -> None:
        """Let go of the files; what was handed out stays readable."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()

    def _write(self, number: int, data: memoryview) -> None:
        try:
            if number not in self._files:
                self._files[number] = self._scratch(self._announced[number].length)
            self._files[number].write(data)
        except (OSError, DegradedError) as error:
            self._failed[number] = DegradedError(f"no room for statistics: {error}")

    def _result(self, kind: str) -> Blob | PeermergeError:
        number = self._wanted.get(kind)
        if number is None:
            return EnvelopeError(Refusal.NO_STATISTICS, kind)
        length, size = self._announced[number].length, self._sizes[number]
        if length > self._limits[kind]:
            return EnvelopeError(Refusal.OVERSIZE, f"{length} bytes of {kind}")
        if size < length:
            return EnvelopeError(Refusal.NO_STATISTICS, f"{size} of {length} bytes of {kind}")
        if number in self._failed:
            return self._failed[number]
        if self._digests[number].digest() != self._announced[number].sha256:
            return EnvelopeError(Refusal.DIGEST_MISMATCH, kind)
        try:
            return written(self._files[number]) if length else MemoryBlob(b"")
        except OSError as error:
            return DegradedError(f"statistics cannot be read back: {error}")
