"""Layout of a frame: header, exponents, segment table, and every check that needs no plane.

header (92 bytes) | exponents (int8 per tensor) | segment table (80 bytes per segment) | segment bodies
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from . import segments
from .blob import Blob
from .errors import FrameError, Refusal
from .limits import (
    FRAME_VERSION,
    MAX_EXPONENT,
    MAX_LOG2_SEGMENT,
    MIN_EXPONENT,
    MIN_LOG2_SEGMENT,
    max_frame_bytes,
    max_segments,
)
from .manifest import Manifest
from .segments import RECORD, Table

MAGIC: Final = b"PMRF"
FIELDS: Final = struct.Struct("<4sBBBBQQQIIQQ32s")
"""Magic, format version, flags, log2 of the segment length, a reserved byte; then `Header` in its order."""
CHECKSUM: Final = struct.Struct("<I")
HEADER_BYTES: Final = FIELDS.size + CHECKSUM.size
MAX_VERSION: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a frame says of itself: sizes, the versions of the published state it joins, the manifest's digest."""

    log2_segment: int
    length: int
    entries: int
    body_length: int
    segments: int
    tensors: int
    from_version: int
    to_version: int
    digest: bytes

    @property
    def body_start(self) -> int:
        """Offset of the first segment's body."""
        return self.table_start + RECORD.itemsize * self.segments

    @property
    def table_start(self) -> int:
        """Offset of the segment table."""
        return HEADER_BYTES + self.tensors

    @property
    def frame_length(self) -> int:
        """Length of the whole frame."""
        return self.body_start + self.body_length

    def segment_size(self, number: int) -> int:
        """Return the number of places of a segment; the last may be short."""
        return min(self.length - (number << self.log2_segment), 1 << self.log2_segment)

    def filled(self, entries: int, body_length: int) -> Header:
        """Return the header of the frame once its bodies are written."""
        return replace(self, entries=entries, body_length=body_length)

    def pack(self, exponents: bytes, table: bytes) -> bytes:
        """Return header and tables, with the checksum over all of them."""
        fields = FIELDS.pack(
            MAGIC,
            FRAME_VERSION,
            0,
            self.log2_segment,
            0,
            self.length,
            self.entries,
            self.body_length,
            self.segments,
            self.tensors,
            self.from_version,
            self.to_version,
            self.digest,
        )
        return fields + CHECKSUM.pack(zlib.crc32(table, zlib.crc32(exponents, zlib.crc32(fields)))) + exponents + table

    def check(self, manifest: Manifest) -> None:
        """Raise FrameError unless the header belongs to this manifest and does not contradict itself."""
        ours = (manifest.length, len(manifest.tensors), manifest.digest)
        if (self.length, self.tensors, self.digest) != ours:
            raise FrameError(Refusal.MANIFEST_MISMATCH, "length, number of tensors or digest")
        if not MIN_LOG2_SEGMENT <= self.log2_segment <= MAX_LOG2_SEGMENT:
            raise FrameError(Refusal.BAD_HEADER, f"segments of 2^{self.log2_segment}")
        if self.segments != segment_count(self.length, self.log2_segment):
            raise FrameError(Refusal.BAD_HEADER, f"{self.segments} segments")
        if self.segments > max_segments(self.length, self.body_length):
            raise FrameError(Refusal.BAD_HEADER, f"{self.segments} segments for {self.body_length} bytes")
        if self.entries > manifest.parameters:
            raise FrameError(Refusal.BAD_HEADER, f"{self.entries} entries of {manifest.parameters} parameters")
        if not 0 <= self.from_version <= self.to_version <= MAX_VERSION:
            raise FrameError(Refusal.BAD_HEADER, f"from version {self.from_version} to {self.to_version}")


def segment_count(length: int, log2_segment: int) -> int:
    """Return how many segments cover `length` places."""
    return -(-length >> log2_segment)


def parse(frame: Blob, manifest: Manifest) -> tuple[Header, npt.NDArray[np.int8], Table]:
    """Return header, exponents and table of a frame after every check that needs no plane; raise FrameError."""
    if len(frame) > max_frame_bytes(manifest.parameters, len(manifest.tensors)):
        raise FrameError(Refusal.OVERSIZE, f"{len(frame)} bytes")
    header = _unpack(memoryview(frame.read(0, min(HEADER_BYTES, len(frame)))))
    header.check(manifest)
    if len(frame) != header.frame_length:
        refusal = Refusal.TRUNCATED if len(frame) < header.frame_length else Refusal.BAD_HEADER
        raise FrameError(refusal, f"{len(frame)} bytes of {header.frame_length}")
    tables = memoryview(frame.read(0, header.body_start))
    _check_sum(tables)
    exponents = np.frombuffer(tables, np.int8, header.tensors, HEADER_BYTES)
    table = np.frombuffer(tables, RECORD, header.segments, header.table_start)
    _check_tables(header, exponents, table)
    return header, exponents, table


def _unpack(frame: memoryview) -> Header:
    """Read the fixed fields of a frame of our version."""
    if bytes(frame[: len(MAGIC)]) != MAGIC[: len(frame)]:
        raise FrameError(Refusal.BAD_MAGIC)
    if len(frame) < HEADER_BYTES:
        raise FrameError(Refusal.TRUNCATED, f"{len(frame)} bytes of the header")
    _, version, flags, log2_segment, reserved, *fields = FIELDS.unpack_from(frame)
    if version != FRAME_VERSION or flags or reserved:
        raise FrameError(Refusal.UNSUPPORTED_VERSION, f"frame version {version}, flags {flags}")
    length, entries, body_length, segments, tensors, from_version, to_version, digest = fields
    return Header(
        log2_segment=log2_segment,
        length=length,
        entries=entries,
        body_length=body_length,
        segments=segments,
        tensors=tensors,
        from_version=from_version,
        to_version=to_version,
        digest=digest,
    )


def _check_sum(tables: memoryview) -> None:
    """Raise FrameError unless the CRC-32 of header and tables, the checksum itself left out, is the one stated."""
    (stated,) = CHECKSUM.unpack_from(tables, FIELDS.size)
    if zlib.crc32(tables[HEADER_BYTES:], zlib.crc32(tables[: FIELDS.size])) != stated:
        raise FrameError(Refusal.DIGEST_MISMATCH, "checksum of the tables")


def _check_tables(header: Header, exponents: npt.NDArray[np.int8], table: Table) -> None:
    """Raise FrameError unless exponents and records are within limits and add up to the header's sums."""
    if len(exponents) and (exponents.min() < MIN_EXPONENT or exponents.max() > MAX_EXPONENT):
        raise FrameError(Refusal.NON_FINITE, "exponent outside its limits")
    entries = body_length = 0
    for number, record in enumerate(segments.records(table)):
        if not record.fits(header.segment_size(number)):
            raise FrameError(Refusal.BAD_HEADER, "a segment's record contradicts itself")
        entries += record.counts[0]
        body_length += sum(record.sizes)
    if entries != header.entries:
        raise FrameError(Refusal.BAD_HEADER, "the segments' entries do not add up")
    if body_length != header.body_length:
        raise FrameError(Refusal.BAD_HEADER, "the planes' lengths do not add up")
