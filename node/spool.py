"""Frames on their way from peers: each lies in a scratch file until it is whole and right, and is not believed before.

What came of a frame whose transfer broke off stays, and the next one goes on behind it: `partial` and `offset` of a
PullRequest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from ..protocol.blob import Blob, written
from ..protocol.errors import DegradedError, EnvelopeError, FrameError, Refusal
from ..protocol.messages import Header

KEEP_S = 3600.0
"""What broke off and did not go on is dropped after so long: such peers are gone."""


class Spool:
    """The beginning of the frame that a header announces, and the digest of what is there."""

    def __init__(self, header: Header, file: BinaryIO, now: Callable[[], float]) -> None:
        self.header = header
        self.size = 0
        self.grown = now()
        """When it last grew."""
        self._now = now
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, chunk: memoryview) -> bool:
        """Take the next bytes; return whether the frame is whole. Raises FrameError for more than announced.

        Raises DegradedError if the disk refuses.
        """
        if self.size + len(chunk) > self.header.frame_bytes:
            raise FrameError(Refusal.OVERSIZE, "more bytes than announced")
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            raise DegradedError(f"no room for a frame of {self.header.frame_bytes} bytes: {error}") from error
        self._digest.update(chunk)
        self.size += len(chunk)
        self.grown = self._now()
        return self.size == self.header.frame_bytes

    def frame(self) -> Blob:
        """Return the whole frame; raises EnvelopeError if it is not the one announced."""
        if self._digest.digest() != self.header.frame_sha256:
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, "frame")
        try:
            return written(self._file)
        except OSError as error:
            raise DegradedError(f"a frame of {self.header.sender} cannot be read back: {error}") from error

    def close(self) -> None:
        """Let go of the bytes."""
        with suppress(OSError):  # a disk that refused them once refuses them again
            self._file.close()


class Spools:
    """At most one spool a peer."""

    def __init__(self, scratch: Callable[[int], BinaryIO], now: Callable[[], float]) -> None:
        self._scratch = scratch
        self._now = now
        self._kept: dict[str, Spool] = {}

    def held(self, peer: str) -> tuple[bytes, int]:
        """Return the SHA-256 of the frame that a peer began to send, and how much came of it."""
        spool = self._kept.get(peer)
        return (spool.header.frame_sha256, spool.size) if spool else (b"", 0)

    def begin(self, peer: str, header: Header) -> Spool:
        """Return the spool of the frame that a peer announces: what is held of it, or an empty one."""
        if self.held(peer)[0] != header.frame_sha256:
            self.drop(peer)
            self._kept[peer] = Spool(header, self._scratch(header.frame_bytes), self._now)
        spool = self._kept[peer]
        spool.header = header
        return spool

    def take(self, peer: str) -> Spool:
        """Hand a spool over: it is kept no longer, and the caller closes it."""
        return self._kept.pop(peer)

    def drop(self, peer: str) -> None:
        """Let go of what a peer began to send."""
        if peer in self._kept:
            self.take(peer).close()

    def expire(self) -> None:
        """Drop what has not grown for too long."""
        for peer in [p for p, spool in self._kept.items() if self._now() - spool.grown > KEEP_S]:
            self.drop(peer)

    def close(self) -> None:
        """Drop everything."""
        for peer in list(self._kept):
            self.drop(peer)
