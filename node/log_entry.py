"""One version of a published log as a file: the frame exactly as peers receive it, then its envelope.

    frame | envelope | length of the envelope (u32, little-endian) | SHA-256 of the envelope

The frame comes first, so that it is coded straight into its file, and what is said about it follows once it is known.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

from ..protocol.blob import Beginning, Blob, sha256
from ..protocol.errors import EnvelopeError, Refusal
from ..protocol.limits import MAX_HEADER_BYTES
from ..protocol.messages import Envelope, Header

_TRAILER = struct.Struct("<I32s")


@dataclass(frozen=True, slots=True)
class Entry:
    """One version as peers receive it."""

    header: Header
    envelope: bytes
    frame: Blob

    @classmethod
    def open(cls, file: Blob) -> Entry:
        """Read all of a file but its frame, and check that; raises PeerError if it is damaged."""
        size = len(file)
        length, digest = _TRAILER.unpack(file.read(size - _TRAILER.size, _TRAILER.size))
        start = size - _TRAILER.size - length
        if start < 0 or length > MAX_HEADER_BYTES:
            raise EnvelopeError(Refusal.TRUNCATED, f"an envelope of {length} bytes in {size}")
        envelope = bytes(file.read(start, length))
        if hashlib.sha256(envelope).digest() != digest:
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, "envelope")
        return cls(_header(envelope), envelope, Beginning(file, start))

    def trailer(self) -> bytes:
        """Return what stands behind the frame in a file."""
        return self.envelope + _TRAILER.pack(len(self.envelope), hashlib.sha256(self.envelope).digest())

    def verify(self) -> None:
        """Raise EnvelopeError unless the frame is the one that the header announces; reads all of it."""
        if len(self.frame) != self.header.frame_bytes:
            raise EnvelopeError(Refusal.TRUNCATED, f"{len(self.frame)} of {self.header.frame_bytes} bytes")
        if sha256(self.frame) != self.header.frame_sha256:
            raise EnvelopeError(Refusal.DIGEST_MISMATCH, "frame")

    def __len__(self) -> int:
        """Size of the file."""
        return len(self.frame) + len(self.envelope) + _TRAILER.size


@lru_cache(maxsize=16)
def _header(envelope: bytes) -> Header:
    """Return the header of an envelope of ours; neighbours ask for the same few one after the other."""
    return Header.decode(Envelope.decode(envelope).header)
