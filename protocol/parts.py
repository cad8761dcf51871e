"""A Pull stream: parts of tag, length and payload, several of which may share one message."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .errors import FrameError, Refusal
from .limits import CHUNK_BYTES

TAG_ENVELOPE = b"E"
TAG_CHUNK = b"C"
_PART = struct.Struct("<cI")


def pull_messages(envelope: bytes, frame: bytes | memoryview, offset: int = 0) -> Iterator[bytes]:
    """Yield the messages that carry one envelope and its frame from `offset` on, at most a chunk each."""
    head = _PART.pack(TAG_ENVELOPE, len(envelope)) + envelope
    view = memoryview(frame)[offset:]
    for start in range(0, max(1, len(view)), CHUNK_BYTES):
        chunk = view[start : start + CHUNK_BYTES]
        yield b"".join((head, _PART.pack(TAG_CHUNK, len(chunk)), chunk))
        head = b""


def pull_parts(message: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Split one message of a Pull stream into (tag, payload); raises FrameError."""
    view = memoryview(message)
    while view:
        if len(view) < _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's head")
        tag, length = _PART.unpack_from(view)
        if tag not in (TAG_ENVELOPE, TAG_CHUNK):
            raise FrameError(Refusal.BAD_HEADER, f"part tag {tag!r}")
        if length > len(view) - _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's payload")
        yield tag, view[_PART.size : _PART.size + length]
        view = view[_PART.size + length :]
