"""A second decoder of frames, written from `protocol/README.md` alone: no numpy, no speed, nothing of the real one.

It exists to disagree: where the two differ on any bytes, the codec or its description is wrong. Names, order and
wording follow the section "Frame" of that page, so that the two can be read side by side.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass

import zstandard

from peermerge.protocol.manifest import Manifest

HEADER = struct.Struct("<4sBBBBQQQIIQQ32sI")
RECORD = struct.Struct("<6I6I6BBBII4I")
EMPTY, FULL, BITMAP, BITMAP_ENTROPY, GAPS, GAPS_ENTROPY = range(6)


class Refused(Exception):
    """The frame is not valid; `name` is the refusal in the README's table."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


@dataclass(frozen=True)
class Header:
    """The fields of a header that say something about the delta."""

    log2_segment: int
    length: int
    entries: int
    bodies: int
    segments: int
    tensors: int
    from_version: int
    to_version: int


@dataclass(frozen=True)
class Mask:
    """One mask in the table: which `count` of `domain` places are taken, stored in `stored` bytes."""

    domain: int
    count: int
    stored: int
    coding: int
    shift: int

    @property
    def low_bytes(self) -> int:
        """Bytes of the low bits of all gaps."""
        return up(self.count * self.shift, 8)

    @property
    def most_quotients(self) -> int:
        """Bytes that the quotients can take at most."""
        return self.count + (self.domain >> self.shift) // 255


@dataclass(frozen=True)
class Record:
    """One segment in the table. `masks` are the segment's and those of its unary planes."""

    start: int
    masks: tuple[Mask, ...]
    width: int
    digits: int
    exceptions: int
    excess: tuple[int, ...]

    @property
    def entries(self) -> int:
        """Entries of the segment."""
        return self.masks[0].count

    @property
    def left(self) -> int:
        """Entries that passed every plane: they have a digit."""
        return self.masks[-1].count

    @property
    def body(self) -> int:
        """Bytes of all planes."""
        return sum(m.stored for m in self.masks) + up(self.entries, 8) + self.digits + sum(self.excess)


def plain_decode(frame: bytes, manifest: Manifest) -> tuple[Header, list[int], list[tuple[int, int]]]:
    """Return the header, the exponent of every tensor and every (place, level) of a frame, or raise `Refused`."""
    header, exponents, records = read_tables(frame, manifest)
    entries: list[tuple[int, int]] = []
    place = len(frame) - header.bodies
    for record in records:
        entries += read_body(frame[place : place + record.body], record)
        place += record.body
    need(not any_in_padding([place for place, _ in entries], sizes_of(manifest)), "BAD_INDEX")
    return header, exponents, entries


def read_tables(frame: bytes, manifest: Manifest) -> tuple[Header, list[int], list[Record]]:
    """Return the header, the exponents and the records after every check that needs no body, or raise `Refused`."""
    header = read_header(frame, manifest)
    exponents = list(struct.unpack_from(f"<{header.tensors}b", frame, HEADER.size))
    need(all(-126 <= e <= 97 for e in exponents), "NON_FINITE")

    records = []
    for i in range(header.segments):
        start = i << header.log2_segment
        domain = min(header.length - start, 1 << header.log2_segment)
        place = HEADER.size + header.tensors + i * RECORD.size
        records.append(read_record(frame[place : place + RECORD.size], start, domain))
    need(sum(r.entries for r in records) == header.entries, "BAD_HEADER")
    need(sum(r.body for r in records) == header.bodies, "BAD_HEADER")
    return header, exponents, records


def read_header(frame: bytes, manifest: Manifest) -> Header:
    """Check everything down to the checksum."""
    sizes = sizes_of(manifest)
    parameters, tensors = sum(sizes), len(sizes)
    length = sum(up(size, 64) * 64 for size in sizes)
    digest = hashlib.sha256(b"peermerge/manifest/v1\0")
    for t in manifest.tensors:
        digest.update(repr((t.name, t.shape, t.dtype, t.full)).encode() + b"\n")

    need(len(frame) <= 4096 + 256 * (1 + (parameters >> 12)) + tensors + 8 * parameters, "OVERSIZE")
    need(frame[:4] == b"PMRF"[: len(frame)], "BAD_MAGIC")
    need(len(frame) >= HEADER.size, "TRUNCATED")
    _, version, flags, g, reserved, n, k, bodies, s, t_, since, to, model, checksum = HEADER.unpack_from(frame)
    need((version, flags, reserved) == (1, 0, 0), "UNSUPPORTED_VERSION")
    need((n, t_, model) == (length, tensors, digest.digest()), "MANIFEST_MISMATCH")
    need(12 <= g <= 24, "BAD_HEADER")
    need(s == up(n, 1 << g) and s <= 64 + (n >> 20) + (bodies >> 12), "BAD_HEADER")
    need(k <= parameters, "BAD_HEADER")
    need(since <= to < 2**63, "BAD_HEADER")
    table_end = HEADER.size + tensors + s * RECORD.size
    need(len(frame) >= table_end + bodies, "TRUNCATED")
    need(len(frame) <= table_end + bodies, "BAD_HEADER")
    need(zlib.crc32(frame[: HEADER.size - 4] + frame[HEADER.size : table_end]) == checksum, "DIGEST_MISMATCH")
    return Header(g, n, k, bodies, s, t_, since, to)


def read_record(data: bytes, start: int, domain: int) -> Record:
    """Check one record of the table: all that can be said without the body."""
    fields = RECORD.unpack(data)
    counts, lengths, codings = fields[0:6], fields[6:12], fields[12:18]
    planes, width, digits, exceptions = fields[18:22]
    excess = fields[22:26]
    if counts[0] == 0:
        need(not any(data), "BAD_HEADER")
        return Record(start, (Mask(domain, 0, 0, EMPTY, 0),), 0, 0, 0, (0, 0, 0, 0))

    need(planes <= 5, "BAD_HEADER")
    need(not any(counts[planes + 1 :] + lengths[planes + 1 :] + codings[planes + 1 :]), "BAD_HEADER")
    masks = []
    for count, stored, coding in zip(counts[: planes + 1], lengths, codings, strict=False):
        need(domain > 0, "BAD_HEADER")  # a plane that follows one that nobody passed
        mask = Mask(domain, count, stored, coding // 32, coding % 32)
        check_mask(mask)
        masks.append(mask)
        domain = count
    need(counts[0] <= 2**20, "BAD_HEADER")

    left = masks[-1].count
    if left == 0:
        need(not any((width, digits, exceptions, *excess)), "BAD_HEADER")
    else:
        need(width in (4, 8), "BAD_HEADER")
        need(0 < digits <= up(left * width, 8), "BAD_HEADER")
        need(exceptions <= left, "BAD_HEADER")
        need(all(min(1, exceptions) <= stored <= exceptions for stored in excess), "BAD_HEADER")
    return Record(start, tuple(masks), width, digits, exceptions, excess)


def check_mask(mask: Mask) -> None:
    """Refuse a mask whose length does not follow from its counts and its coding."""
    need(mask.count <= mask.domain, "BAD_HEADER")
    need(mask.count > 0 or mask.coding == EMPTY, "BAD_HEADER")
    gaps = mask.coding in (GAPS, GAPS_ENTROPY)
    need(mask.shift <= 24 if gaps else mask.shift == 0, "BAD_HEADER")
    need(not gaps or mask.count <= mask.domain / 2, "BAD_HEADER")
    bitmap = up(mask.domain, 8)
    quotients = mask.stored - mask.low_bytes
    match mask.coding:
        case 0:  # EMPTY
            need(mask.count == 0 and mask.stored == 0, "BAD_HEADER")
        case 1:  # FULL
            need(mask.count == mask.domain and mask.stored == 0, "BAD_HEADER")
        case 2:  # BITMAP
            need(mask.stored == bitmap, "BAD_HEADER")
        case 3:  # BITMAP_ENTROPY
            need(0 < mask.stored < bitmap, "BAD_HEADER")
        case 4:  # GAPS
            need(mask.count <= quotients <= mask.most_quotients, "BAD_HEADER")
        case 5:  # GAPS_ENTROPY
            need(0 < quotients < mask.most_quotients, "BAD_HEADER")
        case _:
            raise Refused("BAD_HEADER")


def read_body(body: bytes, record: Record) -> list[tuple[int, int]]:
    """Return the (place, level) of one segment."""
    if record.entries == 0:
        return []
    cursor = Cursor(body)
    places = read_mask(cursor, record.masks[0])
    signs = bits(cursor.take(up(record.entries, 8)), record.entries)
    magnitudes = [1] * record.entries
    passed = list(range(record.entries))  # which entries a plane is about
    for mask in record.masks[1:]:
        passed = [passed[i] for i in read_mask(cursor, mask)]
        for i in passed:
            magnitudes[i] += 1
    if passed:
        for i, digit in zip(passed, read_digits(cursor, record), strict=True):
            magnitudes[i] += digit
    need(all(m < 2**30 for m in magnitudes), "OVERFLOW")
    levels = [-m if sign else m for m, sign in zip(magnitudes, signs, strict=True)]
    return [(record.start + place, level) for place, level in zip(places, levels, strict=True)]


def read_mask(cursor: Cursor, mask: Mask) -> list[int]:
    """Return the places of a mask in ascending order."""
    match mask.coding:
        case 0:
            return []
        case 1:
            return list(range(mask.domain))
        case 2 | 3:
            size = up(mask.domain, 8)
            stored = cursor.take(mask.stored)
            data = inflate(stored, size, size) if mask.coding == BITMAP_ENTROPY else stored
            places = [i for i, bit in enumerate(bits(data, mask.domain)) if bit]
            need(len(places) == mask.count, "BAD_INDEX")
            return places
    stored = cursor.take(mask.stored - mask.low_bytes)
    data = inflate(stored, mask.count, mask.most_quotients) if mask.coding == GAPS_ENTROPY else stored
    low = bits(cursor.take(mask.low_bytes), mask.count * mask.shift)
    return read_gaps(data, low, mask)


def read_gaps(data: bytes, low: list[int], mask: Mask) -> list[int]:
    """Put quotients and low bits together and walk from entry to entry."""
    need(not data or data[-1] != 255, "BAD_INDEX")
    quotients = []
    quotient = 0
    for byte in data:
        quotient += byte
        if byte != 255:
            quotients.append(quotient)
            quotient = 0
    need(len(quotients) == mask.count, "BAD_INDEX")
    places = []
    place = -1
    for i, quotient in enumerate(quotients):
        gap = quotient << mask.shift
        for b in range(mask.shift):
            gap |= low[b * mask.count + i] << b
        place += gap + 1
        places.append(place)
    need(place < mask.domain, "BAD_INDEX")
    return places


def read_digits(cursor: Cursor, record: Record) -> list[int]:
    """Return what is left of the level of each entry that passed every plane."""
    size = up(record.left * record.width, 8)
    data = read_bytes(cursor, record.digits, size)
    if record.width == 4:
        digits = [half for byte in data for half in (byte & 15, byte >> 4)]
        need(not any(digits[record.left :]), "BAD_HEADER")
        digits = digits[: record.left]
    else:
        digits = list(data)
    largest = 2**record.width - 1
    continued = [i for i, digit in enumerate(digits) if digit == largest]
    need(len(continued) == record.exceptions, "BAD_HEADER")
    planes = [read_bytes(cursor, stored, record.exceptions) for stored in record.excess]
    for i, four in zip(continued, zip(*planes, strict=True), strict=True):
        digits[i] += int.from_bytes(four, "little")
    return digits


def read_bytes(cursor: Cursor, stored: int, size: int) -> bytes:
    """Take a plane that is raw exactly if its stored length is its size."""
    data = cursor.take(stored)
    return data if stored == size else inflate(data, size, size)


def inflate(data: bytes, least: int, most: int) -> bytes:
    """Undo the entropy stage of a plane that has `least` to `most` bytes."""
    try:
        stated = zstandard.get_frame_parameters(data)
        need(stated.content_size <= most, "OVERSIZE")
        need(stated.content_size >= least and stated.content_size > len(data), "DECOMPRESS")
        need(stated.window_size <= 2**17, "DECOMPRESS")
        need(stated.dict_id == 0 and not stated.has_checksum, "DECOMPRESS")
        plane = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError:
        raise Refused("DECOMPRESS") from None
    need(len(plane) == stated.content_size, "DECOMPRESS")
    return plane


def any_in_padding(places: list[int], sizes: list[int]) -> bool:
    """Say whether one of the ascending places belongs to no tensor."""
    start = tensor = 0
    for place in places:
        while place >= start + up(sizes[tensor], 64) * 64:
            start += up(sizes[tensor], 64) * 64
            tensor += 1
        if place >= start + sizes[tensor]:
            return True
    return False


class Cursor:
    """Hands out a body's bytes in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self._at += count
        return self._data[self._at - count : self._at]


def bits(data: bytes, count: int) -> list[int]:
    """Return the first bits, least significant first; the rest must be zero."""
    every = [byte >> b & 1 for byte in data for b in range(8)]
    need(not any(every[count:]), "BAD_INDEX")
    return every[:count]


def sizes_of(manifest: Manifest) -> list[int]:
    """Return the number of entries of every tensor."""
    return [math.prod(t.shape) for t in manifest.tensors]


def up(count: int, unit: int) -> int:
    """Return ceil(count / unit)."""
    return -(-count // unit)


def need(holds: bool, name: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise Refused(name)
