"""What a frame says apart from how zstd packed it: two versions of zstd may pack a plane differently."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import zstandard

from peermerge.protocol.manifest import Manifest

from .plain_decoder import BITMAP_ENTROPY, GAPS_ENTROPY, Mask, Record, read_tables, up


@dataclass(frozen=True)
class Plane:
    """One plane of a segment: whether it went through the entropy stage, and its bytes before that."""

    segment: int
    name: str
    packed: bool
    content: bytes

    @property
    def line(self) -> str:
        """All of it in one line, the bytes by length and SHA-256."""
        digest = hashlib.sha256(self.content).hexdigest()
        return f"{self.segment} {self.name} {'packed' if self.packed else 'raw'} {len(self.content)} {digest}"


def planes_of(frame: bytes, manifest: Manifest) -> list[Plane]:
    """Return all planes of a valid frame that are not empty, in order."""
    header, _, records = read_tables(frame, manifest)
    place, planes = len(frame) - header.bodies, []
    for number, record in enumerate(records):
        for name, stored, low, packed in _layout(record):
            if stored:
                head, tail = frame[place : place + stored - low], frame[place + stored - low : place + stored]
                planes.append(Plane(number, name, packed, (_inflated(head) if packed else head) + tail))
            place += stored
    return planes


def tables_of(frame: bytes, manifest: Manifest) -> tuple[object, ...]:
    """Return all that the tables of a valid frame say but lengths: header, exponents, and each segment's codings."""
    header, exponents, records = read_tables(frame, manifest)
    codings = [(r.start, [replace(m, stored=0) for m in r.masks], r.width, r.exceptions) for r in records]
    return replace(header, bodies=0), exponents, codings


def _layout(record: Record) -> Iterator[tuple[str, int, int, bool]]:
    """Yield name, stored bytes, those of them that are never packed, and whether the others are, in a body's order."""
    mask, *unary = record.masks
    yield "mask", *_of_mask(mask)
    yield "signs", up(record.entries, 8), 0, False
    for number, plane in enumerate(unary, start=1):
        yield f"unary {number}", *_of_mask(plane)
    yield "digits", record.digits, 0, record.digits < up(record.left * record.width, 8)
    for byte, stored in enumerate(record.excess):
        yield f"excess {byte}", stored, 0, stored < record.exceptions


def _of_mask(mask: Mask) -> tuple[int, int, bool]:
    return mask.stored, mask.low_bytes, mask.coding in (BITMAP_ENTROPY, GAPS_ENTROPY)


def _inflated(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)
