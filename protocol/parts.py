"""A Pull stream: parts of tag, length and payload, several of which may share one message."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .blob import Blob, blob_of
from .entropy import Buffer
from .errors import FrameError, Refusal
from .limits import CHUNK_BYTES, MAX_MESSAGE_BYTES

FIRST_CHUNK_BYTES = 1 << 16
"""Chunks begin at this size and double: a transfer that breaks off loses its last message, and must have had others."""

TAG_ENVELOPE = b"E"
TAG_CHUNK = b"C"
TAG_ATTACHMENT = b"A"
TAG_BASE = b"B"
FRAME_TAGS = (TAG_ENVELOPE, TAG_CHUNK, TAG_ATTACHMENT)
"""What a stream of frames is made of."""
BASE_TAGS = (TAG_BASE, TAG_CHUNK)
"""What a stream of the base is made of."""
ANY_BASE = bytes(32)
"""In place of a base's digest in a PullRequest: the one that the asked node has."""
_PART = struct.Struct("<cI")
_BASE = struct.Struct("<Q32s32s")


@dataclass(frozen=True, slots=True)
class AnnouncedBase:
    """What comes before the bytes of a base: their number, and the digests of manifest and base."""

    size: int
    manifest: bytes
    digest: bytes

    def encode(self) -> bytes:
        """Serialize."""
        return _BASE.pack(self.size, self.manifest, self.digest)

    @classmethod
    def decode(cls, payload: Buffer) -> AnnouncedBase:
        """Read; raises FrameError."""
        if len(payload) != _BASE.size:
            raise FrameError(Refusal.BAD_HEADER, f"a base is announced in {len(payload)} bytes")
        return cls(*_BASE.unpack(payload))


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
    yield from _messages(_PART.pack(TAG_ENVELOPE, len(envelope)) + envelope, blob_of(frame), offset, chunk)
    for number, attachment in attachments.items():
        for start in range(0, len(attachment), chunk):
            size = min(chunk, len(attachment) - start)
            yield b"".join((_PART.pack(TAG_ATTACHMENT, 1 + size), bytes([number]), attachment.read(start, size)))


def base_messages(announced: AnnouncedBase, base: Blob, offset: int, chunk: int) -> Iterator[bytes]:
    """Yield the messages that carry a base from `offset` on, read chunk by chunk as they go."""
    head = announced.encode()
    yield from _messages(_PART.pack(TAG_BASE, len(head)) + head, base, offset, chunk)


def pull_parts(message: bytes, tags: Collection[bytes] = FRAME_TAGS) -> Iterator[tuple[bytes, memoryview]]:
    """Split one message of a Pull stream into (tag, payload); raises FrameError."""
    view = memoryview(message)
    while view:
        if len(view) < _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's head")
        tag, length = _PART.unpack_from(view)
        if tag not in tags:
            raise FrameError(Refusal.BAD_HEADER, f"part tag {tag!r}")
        if length > len(view) - _PART.size:
            raise FrameError(Refusal.TRUNCATED, "a part's payload")
        yield tag, view[_PART.size : _PART.size + length]
        view = view[_PART.size + length :]


def _messages(head: bytes, blob: Blob, offset: int, chunk: int) -> Iterator[bytes]:
    """Yield a first part and chunks of what it announces: small ones first, of which even a slow line brings some."""
    grown = FIRST_CHUNK_BYTES
    while head or offset < len(blob):
        size = min(grown, chunk, len(blob) - offset, MAX_MESSAGE_BYTES - len(head) - _PART.size)
        yield b"".join((head, _PART.pack(TAG_CHUNK, size), blob.read(offset, size)))
        head, offset, grown = b"", offset + size, min(2 * grown, chunk)
