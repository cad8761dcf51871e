"""Valid frames that our own encoder would not write: every choice that the format leaves open is drawn at random.

A decoder must accept them all. Written from README.md, in plain Python, and with nothing of the codec.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import zstandard

from peermerge.protocol.manifest import Manifest

from ..protocol.plain_decoder import BITMAP, BITMAP_ENTROPY, EMPTY, FULL, GAPS, GAPS_ENTROPY
from .draft import BEYOND, CODINGS, COUNTS, EXCEPTIONS, MASK, PLANES, REST, SIGNS, UNARY, WIDTH, Draft, Segment

Entry = tuple[int, int]
"""A place of the flat index space and its level."""


def forge(
    manifest: Manifest,
    entries: Sequence[Entry],
    log2_segment: int,
    rng: Random,
    exponents: Sequence[int] | None = None,
) -> bytes:
    """Return a valid frame of entries in ascending order; random versions, and exponents unless they are given."""
    count = -(-manifest.length // (1 << log2_segment))
    parts: list[list[Entry]] = [[] for _ in range(count)]
    for place, level in entries:
        parts[place >> log2_segment].append((place % (1 << log2_segment), level))
    segments = []
    for i, part in enumerate(parts):
        domain = min(1 << log2_segment, manifest.length - (i << log2_segment))
        segments.append(forge_segment(part, domain, rng) if part else Segment())
    since = rng.randrange(1 << rng.randrange(1, 62))
    grid = [rng.randrange(-126, 98) for _ in manifest.tensors] if exponents is None else exponents
    signed = struct.pack(f"{len(grid)}b", *grid)
    draft = Draft(log2_segment, manifest.length, since, since + rng.randrange(5), manifest.digest, signed, segments)
    draft.settle()
    return draft.pack()


def forge_segment(entries: Sequence[Entry], domain: int, rng: Random) -> Segment:
    """Return one segment with at least one entry."""
    segment = Segment()
    levels = [abs(level) for _, level in entries]
    put_mask(segment, 0, [place for place, _ in entries], domain, rng)
    segment.planes[SIGNS] = pack_bits([level < 0 for _, level in entries])
    depth = rng.choice((0, 0, 1, 2, 3, 4, 5))
    planes = 0
    while planes < depth and levels:
        planes += 1
        passed = [i for i, level in enumerate(levels) if level > planes]
        put_mask(segment, planes, passed, len(levels), rng)
        levels = [levels[i] for i in passed]
    segment.record[PLANES] = planes
    if levels:
        put_digits(segment, [level - planes - 1 for level in levels], rng)
    return segment


def put_mask(segment: Segment, number: int, places: Sequence[int], domain: int, rng: Random) -> None:
    """Write the segment's mask (number 0) or a unary plane in one of the codings that can hold it."""
    coding, shift, stored = rng.choice(masks(places, domain, rng))
    segment.record[COUNTS + number] = len(places)
    segment.record[CODINGS + number] = coding * 32 + shift
    segment.planes[UNARY + number - 1 if number else MASK] = stored


def masks(places: Sequence[int], domain: int, rng: Random) -> list[tuple[int, int, bytes]]:
    """Return (coding, shift, stored) for every coding that can hold these places."""
    if not places:
        return [(EMPTY, 0, b"")]
    taken = set(places)
    bitmap = pack_bits([place in taken for place in range(domain)])
    shift = rng.choice((0, 1, 2, 3, 5, 8, 24))
    gaps = [place - before - 1 for before, place in zip((-1, *places), places, strict=False)]
    quotients = b"".join(b"\xff" * ((gap >> shift) // 255) + bytes([(gap >> shift) % 255]) for gap in gaps)
    low = pack_bits([gap >> bit & 1 for bit in range(shift) for gap in gaps])
    choices = [(BITMAP, 0, bitmap)]
    if len(packed := squeeze(bitmap, rng)) < len(bitmap):
        choices.append((BITMAP_ENTROPY, 0, packed))
    if len(places) == domain:
        choices.append((FULL, 0, b""))
    if len(places) <= domain / 2:
        choices.append((GAPS, shift, quotients + low))
        if len(packed := squeeze(quotients, rng)) < len(quotients):
            choices.append((GAPS_ENTROPY, shift, packed + low))
    return choices


def put_digits(segment: Segment, rest: Sequence[int], rng: Random) -> None:
    """Write what is left of the levels in digits of either width."""
    width = rng.choice((4, 8))
    largest = 2**width - 1
    digits = [min(value, largest) for value in rest]
    if width == 4:
        digits += [0] * (len(digits) % 2)
        digits = [low + 16 * high for low, high in zip(digits[::2], digits[1::2], strict=True)]
    excess = [value - largest for value in rest if value >= largest]
    segment.record[WIDTH], segment.record[EXCEPTIONS] = width, len(excess)
    segment.planes[REST] = shorter(bytes(digits), rng)
    for b in range(4):
        segment.planes[BEYOND + b] = shorter(bytes(value >> 8 * b & 255 for value in excess), rng)


def shorter(plane: bytes, rng: Random) -> bytes:
    """Return the plane, or sometimes its zstd frame if that is shorter."""
    packed = squeeze(plane, rng)
    return packed if len(packed) < len(plane) and rng.random() < 0.7 else plane


def squeeze(plane: bytes, rng: Random) -> bytes:
    """Return a zstd frame of a plane, by one of many settings."""
    level, window_log = rng.choice((-20, -1, 1, 1, 1, 5)), rng.choice((10, 17, 17))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log, write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(plane)


def pack_bits(bits: Sequence[object]) -> bytes:
    """Return a plane of bits, the first in the lowest bit."""
    packed = bytearray(-(-len(bits) // 8))
    for i, bit in enumerate(bits):
        if bit:
            packed[i >> 3] |= 1 << (i & 7)
    return bytes(packed)
