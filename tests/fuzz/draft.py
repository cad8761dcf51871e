"""A frame taken apart into numbers and planes that can be changed freely, and put together again.

Nothing is checked here: a draft may say anything. What makes a frame pass the checks of its tables, the lengths
of the planes, their sums and the checksum, can be filled in by `settle` and `pack`, or left wrong.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

from ..protocol.plain_decoder import HEADER, RECORD

COUNTS, LENGTHS, CODINGS, PLANES, WIDTH, DIGITS, EXCEPTIONS, EXCESS = 0, 6, 12, 18, 19, 20, 21, 22
"""Where the fields of a record begin among its 26 numbers."""

MASK, SIGNS, UNARY, REST, BEYOND = 0, 1, 2, 7, 8
"""Where the planes stand among the twelve of a body: mask, signs, five unary planes, digits, four excess planes."""

STORED_IN = {MASK: LENGTHS, REST: DIGITS}
STORED_IN |= {UNARY + p: LENGTHS + 1 + p for p in range(5)}
STORED_IN |= {BEYOND + p: EXCESS + p for p in range(4)}
"""The number of the record that holds the length of each plane; the signs' length follows from the entries."""


@dataclass
class Segment:
    """One record of the table and the planes of its body."""

    record: list[int] = field(default_factory=lambda: [0] * 26)
    planes: list[bytes] = field(default_factory=lambda: [b""] * 12)

    def copy(self) -> Segment:
        """Return an independent twin."""
        return Segment(self.record.copy(), self.planes.copy())


@dataclass
class Draft:
    """A frame in pieces; the fields of the header have the names that README.md gives them."""

    g: int
    n: int
    since: int
    to: int
    digest: bytes
    exponents: bytes
    segments: list[Segment]
    magic: bytes = b"PMRF"
    version: int = 1
    flags: int = 0
    reserved: int = 0
    k: int = 0
    bodies: int = 0
    s: int = 0
    t: int = 0

    def copy(self) -> Draft:
        """Return an independent twin."""
        return replace(self, segments=[s.copy() for s in self.segments])

    def settle(self) -> None:
        """Fill in the lengths of all planes and the sums that follow from them."""
        for segment in self.segments:
            for plane, place in STORED_IN.items():
                segment.record[place] = len(segment.planes[plane])
        self.settle_sums()

    def settle_sums(self) -> None:
        """Fill in the sums of the header."""
        self.k = sum(s.record[COUNTS] for s in self.segments)
        self.bodies = sum(map(len, (plane for s in self.segments for plane in s.planes)))
        self.s, self.t = len(self.segments), len(self.exponents)

    def pack(self, wrong: int = 0) -> bytes:
        """Return the frame; its checksum is off by `wrong`."""
        table = b"".join(RECORD.pack(*s.record) for s in self.segments)
        fields = (self.n, self.k, self.bodies, self.s, self.t, self.since, self.to, self.digest)
        head = HEADER.pack(self.magic, self.version, self.flags, self.g, self.reserved, *fields, 0)[:-4]
        checksum = zlib.crc32(head + self.exponents + table) ^ wrong
        bodies = [plane for s in self.segments for plane in s.planes]
        return b"".join([head, checksum.to_bytes(4, "little"), self.exponents, table, *bodies])


def parse(frame: bytes) -> Draft:
    """Take a valid frame apart."""
    magic, version, flags, g, reserved, n, k, bodies, s, t, since, to, digest, _ = HEADER.unpack_from(frame)
    exponents = frame[HEADER.size : HEADER.size + t]
    place = HEADER.size + t + s * RECORD.size
    segments = []
    for i in range(s):
        record = list(RECORD.unpack_from(frame, HEADER.size + t + i * RECORD.size))
        planes = []
        for plane in range(12):
            length = -(-record[COUNTS] // 8) if plane == SIGNS else record[STORED_IN[plane]]
            planes.append(frame[place : place + length])
            place += length
        segments.append(Segment(record, planes))
    return Draft(g, n, since, to, digest, exponents, segments, magic, version, flags, reserved, k, bodies, s, t)


def sealed(frame: bytes) -> bytes:
    """Return bytes with the checksum of a frame's tables made right, wherever they reach so far."""
    if len(frame) < HEADER.size:
        return frame
    *_, s, t, _, _, _, _ = HEADER.unpack_from(frame)
    end = HEADER.size + t + s * RECORD.size
    checksum = zlib.crc32(frame[: HEADER.size - 4] + frame[HEADER.size : end])
    return frame[: HEADER.size - 4] + checksum.to_bytes(4, "little") + frame[HEADER.size :]
