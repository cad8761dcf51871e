"""A Pull stream: parts of tag, length and payload, several of which may share one message."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from .blob import Blob, blob_of
from .entropy import Buffer
from .errors import FrameError, Refusal
from .limits import CHUNK_BYTES, MAX_MESSAGE_BYTES

TAG_ENVELOPE = b"E"
TAG_CHUNK = b"C"
TAG_ATTACHMENT = b"A"
_PART = struct.Struct("<cI")


def pull_messages(
    envelope: bytes,
    frame: Buffer | Blob,
    offset: int = 0,
    chunk: int = CHUNK_BYTES,
    attachments: Mapping[int, Blob] = MappingProxyType({}),
) -> Iterator[bytes]:
    """Yield the messages that carry one envelope and its frame from `offset` on, read chunk by chunk as they go.

    attachments: what travels behind them, by its place in the header's list.
    """
    blob = blob_of(frame)
    head = _PART.pack(TAG_ENVELOPE, len(envelope)) + envelope
    while head or offset < len(blob):
        size = min(chunk, len(blob) - offset, MAX_MESSAGE_BYTES - len(head) - _PART.size)
        yield b"".join((head, _PART.pack(TAG_CHUNK, size), blob.read(offset, size)))
        head, offset = b"", offset + size
    for number, attachment in attachments.items():
        for start in range(0, len(attachment), chunk):
            size = min(chunk, len(attachment) - start)
            yield b"".join((_PART.pack(TAG_ATTACHMENT, 1 + size), bytes([number]), attachment.read(start, size)))


def pull_parts(message: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Split one message of a Pull stream into (tag, payload); raises FrameError."""
    view = memoryview(message)
    while view:
        if len(view) < _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's head")
        tag, length = _PART.unpack_from(view)
        if tag not in (TAG_ENVELOPE, TAG_CHUNK, TAG_ATTACHMENT):
            raise FrameError(Refusal.BAD_HEADER, f"part tag {tag!r}")
        if length > len(view) - _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's payload")
        yield tag, view[_PART.size : _PART.size + length]
        view = view[_PART.size + length :]
