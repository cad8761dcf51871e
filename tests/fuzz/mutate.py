"""Structured mutation of frames: damage where it hurts, with everything else made right again.

Three kinds: damage to bodies, after which lengths, sums and checksum are settled; to fields of header and records,
after which only the checksum is; and to the finished bytes. Most mutants are of the first kind: they get past the
tables, to the planes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import zstandard

from ..protocol.plain_decoder import BITMAP_ENTROPY, FULL, GAPS, GAPS_ENTROPY
from .draft import (
    BEYOND,
    CODINGS,
    COUNTS,
    EXCEPTIONS,
    MASK,
    PLANES,
    REST,
    SIGNS,
    UNARY,
    WIDTH,
    Draft,
    Segment,
)
from .zstd_forgery import forged

Damage: TypeAlias = Callable[[Draft, Draft, Random], None]
"""Changes a draft; the second one is a donor."""
BytesDamage: TypeAlias = Callable[[bytes, Draft, Random], bytes]
"""Returns a frame's bytes, changed."""

LIMIT = 1 << 30
"""Levels stay below this."""
MOST_CONTINUED = 1 << 20
"""So many excesses are made at most."""
INTERESTING: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65535,
    1 << 16,
    1 << 17,
)
INTERESTING += (1 << 20, (1 << 20) + 1, 1 << 24, LIMIT - 1, LIMIT, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
WIDE = (1 << 32, 1 << 45, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
COMPRESSORS = tuple(
    zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            level, window_log=17, write_content_size=True, write_checksum=False, write_dict_id=False
        )
    )
    for level in (-20, 1, 3)
)


def mutate(seed: Draft, donor: Draft, rng: Random) -> bytes:
    """Return a damaged frame of the seed; the donor, of the same model or another, gives parts of itself."""
    draft = seed.copy()
    kind = rng.random()
    if kind < 0.9:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choices(*DRAWN)[0](draft, donor, rng)
    draft.settle()
    if 0.75 < kind < 0.93:
        rng.choice(TABLES)(draft, donor, rng)
        if rng.random() < 0.3:
            draft.settle_sums()
    frame = draft.pack(wrong=rng.getrandbits(32) if rng.random() < 0.02 else 0)
    return rng.choice(FRAMES)(frame, donor, rng) if kind > 0.93 else frame


# Damage to bytes


def flip(data: bytearray, rng: Random) -> None:
    """Turn one bit."""
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def poke(data: bytearray, rng: Random) -> None:
    """Write one to eight bytes of a pattern."""
    place = rng.randrange(len(data) + 1)
    patterns = (bytes(8), b"\xff" * 8, rng.randbytes(8), rng.choice(INTERESTING + WIDE).to_bytes(8, "little"))
    end = min(len(data), place + rng.choice((1, 1, 2, 4, 8)))
    data[place:end] = rng.choice(patterns)[: end - place]


def move(data: bytearray, rng: Random) -> None:
    """Exchange two bytes: bitmaps keep their number of ones, gaps their sum."""
    if data:
        i, j = rng.randrange(len(data)), rng.randrange(len(data))
        data[i], data[j] = data[j], data[i]


def shift(data: bytearray, rng: Random) -> None:
    """Take from one byte and give to another: gaps keep their sum."""
    if data:
        i, j, amount = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 1, 5, 64))
        if data[i] >= amount and data[j] + amount < 255:
            data[i] -= amount
            data[j] += amount


def grow(data: bytearray, rng: Random) -> None:
    """Put bytes in somewhere."""
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice((b"\0", b"\xff", b"\xff" * rng.randrange(9), rng.randbytes(rng.randrange(9))))


def shrink(data: bytearray, rng: Random) -> None:
    """Take bytes out somewhere."""
    place = rng.randrange(len(data) + 1)
    del data[place : place + rng.choice((1, 1, 2, 8))]


KEEPING = (flip, flip, poke, move, shift)
BYTES = (*KEEPING, grow, shrink)

# Damage to bodies


def pick(draft: Draft, rng: Random) -> Segment:
    """Return a segment, one with entries if there is any."""
    return rng.choice([s for s in draft.segments if s.record[COUNTS]] or draft.segments or [Segment()])


def pick_plane(segment: Segment, rng: Random) -> int:
    """Return the number of a plane, one with bytes if there is any."""
    return rng.choice([i for i, plane in enumerate(segment.planes) if plane] or [MASK])


def content_size(draft: Draft, segment: Segment, plane: int) -> int:
    """Return how many bytes a plane has before the entropy stage (the most, where gaps leave it open)."""
    record = segment.record
    left = record[COUNTS + min(5, record[PLANES])]
    if plane == SIGNS:
        return -(-record[COUNTS] // 8)
    if plane == REST:
        return -(-left * record[WIDTH] // 8)
    if plane >= BEYOND:
        return record[EXCEPTIONS]
    number = plane - UNARY + 1 if plane else 0
    domain = record[COUNTS + number - 1] if number else min(1 << draft.g, draft.n)
    coding, low = divmod(record[CODINGS + number], 32)
    if coding in (GAPS, GAPS_ENTROPY):
        return record[COUNTS + number] + (domain >> low) // 255
    return -(-domain // 8)


def split(segment: Segment, plane: int) -> tuple[bytes, bytes]:
    """Return a plane in two: what the entropy stage may be about, and the raw low bits of gaps."""
    stored = segment.planes[plane]
    if plane == MASK or UNARY <= plane < REST:
        number = plane - UNARY + 1 if plane else 0
        coding, low = divmod(segment.record[CODINGS + number], 32)
        if coding in (GAPS, GAPS_ENTROPY):
            cut = max(0, len(stored) - -(-segment.record[COUNTS + number] * low // 8))
            return stored[:cut], stored[cut:]
    return stored, b""


def inflated(data: bytes) -> bytes | None:
    """Return what a small zstd frame holds; None for anything else."""
    try:
        stated = zstandard.get_frame_parameters(data).content_size
        return zstandard.ZstdDecompressor().decompress(data) if 0 < stated <= 1 << 24 else None
    except zstandard.ZstdError:
        return None


def damage_stored(draft: Draft, donor: Draft, rng: Random) -> None:
    """Change stored bytes of a plane and keep their number."""
    rewrite(pick(draft, rng), rng, rng.choice(KEEPING), inside=False)


def damage_content(draft: Draft, donor: Draft, rng: Random) -> None:
    """Change bytes of a plane behind its entropy stage."""
    rewrite(pick(draft, rng), rng, rng.choice(KEEPING), inside=True)


def resize(draft: Draft, donor: Draft, rng: Random) -> None:
    """Make a plane longer or shorter, stored or behind its entropy stage."""
    rewrite(pick(draft, rng), rng, rng.choice((grow, shrink)), inside=rng.random() < 0.5)


def rewrite(segment: Segment, rng: Random, change: Callable[[bytearray, Random], None], *, inside: bool) -> None:
    """Apply a change to a plane, or to what its zstd frame holds."""
    plane = pick_plane(segment, rng)
    head, low = split(segment, plane)
    content = inflated(head) if inside else None
    data = bytearray(head + low if content is None else content)
    change(data, rng)
    packed = data if content is None else rng.choice(COMPRESSORS).compress(data) + low
    segment.planes[plane] = bytes(packed)


def transcode(draft: Draft, donor: Draft, rng: Random) -> None:
    """Store the segment's mask or a unary plane with or without the entropy stage, and say so."""
    segment = pick(draft, rng)
    number = rng.randrange(1 + min(5, segment.record[PLANES]))
    plane = UNARY + number - 1 if number else MASK
    coding, low_bits = divmod(segment.record[CODINGS + number], 32)
    if coding > FULL:
        head, low = split(segment, plane)
        packed = coding in (BITMAP_ENTROPY, GAPS_ENTROPY)
        content = inflated(head) or head if packed else rng.choice(COMPRESSORS).compress(head)
        segment.planes[plane] = content + low
        segment.record[CODINGS + number] = (coding ^ 1) * 32 + low_bits


def forge_zstd(draft: Draft, donor: Draft, rng: Random) -> None:
    """Put a forged zstd frame in the place of a plane that has, or may have, an entropy stage."""
    segment = pick(draft, rng)
    plane = rng.choice([i for i in (MASK, *range(UNARY, 12)) if segment.planes[i]] or [MASK])
    head, low = split(segment, plane)
    size = rng.choice((content_size(draft, segment, plane), len(inflated(head) or head)))
    segment.planes[plane] = forged(size, rng) + low
    if plane < REST:
        segment.record[CODINGS + max(0, plane - UNARY + 1)] |= 32  # bitmap or gaps, entropy stage


def exceed(draft: Draft, donor: Draft, rng: Random) -> None:
    """Bring levels close to 2^30, or above: all digits are continued, by an excess near the limit."""
    segment = pick(draft, rng)
    record = segment.record
    left = min(MOST_CONTINUED, record[COUNTS + min(5, record[PLANES])])  # an earlier mutation may claim 2^32 of them
    record[WIDTH] = rng.choice((4, 8))
    record[EXCEPTIONS] = left
    digits = bytearray(b"\xff" * -(-left * record[WIDTH] // 8))
    if left % 2 and record[WIDTH] == 4:
        digits[-1] = 15
    segment.planes[REST] = bytes(digits)
    largest = LIMIT - 1 - record[PLANES] - (1 << record[WIDTH])  # what makes a level of 2^30 - 1
    values = rng.choice(((0, largest), (largest, largest + 1), (0, (1 << 32) - 1), (1 << 31, 1 << 16)))
    excess = rng.choices(values, (20, 1), k=left)
    for b in range(4):
        segment.planes[BEYOND + b] = bytes(value >> 8 * b & 255 for value in excess)


def miscount(draft: Draft, donor: Draft, rng: Random) -> None:
    """Claim one entry more or fewer than there are; the sums follow."""
    segment = pick(draft, rng)
    places = (COUNTS, *range(COUNTS + 1, COUNTS + 1 + min(5, segment.record[PLANES])), EXCEPTIONS)
    place = rng.choice(places)
    segment.record[place] = max(0, segment.record[place] + rng.choice((1, -1)))


def splice(draft: Draft, donor: Draft, rng: Random) -> None:
    """Take a plane, a record or a whole segment of the donor."""
    if donor.segments and draft.segments:
        i = rng.randrange(len(draft.segments))
        given = pick(donor, rng).copy()
        if (part := rng.random()) < 0.4:
            plane = rng.randrange(12)
            draft.segments[i].planes[plane] = given.planes[plane]
        elif part < 0.5:
            draft.segments[i].record = given.record
        else:
            draft.segments[i] = given


def swap(draft: Draft, donor: Draft, rng: Random) -> None:
    """Exchange two planes of a segment, or two segments."""
    if rng.random() < 0.5 and len(draft.segments) > 1:
        i, j = rng.sample(range(len(draft.segments)), 2)
        draft.segments[i], draft.segments[j] = draft.segments[j], draft.segments[i]
    else:
        planes = pick(draft, rng).planes
        i, j = rng.sample(range(12), 2)
        planes[i], planes[j] = planes[j], planes[i]


# Damage to fields


def damage_header(draft: Draft, donor: Draft, rng: Random) -> None:
    """Change a number of the header, the digest or the magic."""
    name, size = rng.choice(HEADER_FIELDS)
    draft.__dict__[name] = near(draft.__dict__[name], size, rng)


def damage_record(draft: Draft, donor: Draft, rng: Random) -> None:
    """Change a number of a record."""
    record = pick(draft, rng).record
    place = rng.randrange(len(record))
    record[place] = near(record[place], 1 if CODINGS <= place <= WIDTH else 4, rng)


def damage_exponents(draft: Draft, donor: Draft, rng: Random) -> None:
    """Change an exponent to anything."""
    exponents = bytearray(draft.exponents)
    poke(exponents, rng)
    draft.exponents = bytes(exponents)


def misidentify(draft: Draft, donor: Draft, rng: Random) -> None:
    """Say that the frame is the donor's, or no frame."""
    if rng.random() < 0.5:
        draft.digest = donor.digest
    else:
        draft.magic = rng.choice((b"PMRG", b"\0\0\0\0", rng.randbytes(4)))


def resegment(draft: Draft, donor: Draft, rng: Random) -> None:
    """Claim other segments: their length, their number, or a record more or fewer."""
    draft.g = rng.choice((0, 11, 12, 13, 20, 24, 25, 255))
    if rng.random() < 0.5:
        draft.s = min(-(-draft.n // (1 << min(draft.g, 64))), (1 << 32) - 1)
    elif draft.segments:
        draft.segments = rng.choice((draft.segments[:-1], [*draft.segments, draft.segments[-1].copy()]))
        draft.settle_sums()


def near(value: int, size: int, rng: Random) -> int:
    """Return another number of `size` bytes: close by, interesting, or random."""
    choices = (value + 1, value - 1, value ^ 1 << rng.randrange(8 * size), rng.choice(INTERESTING), rng.choice(WIDE))
    return rng.choice((*choices, rng.getrandbits(8 * size))) % (1 << 8 * size)


# Damage to frames


def cut(frame: bytes, donor: Draft, rng: Random) -> bytes:
    """End too early."""
    return frame[: rng.randrange(len(frame) + 1)]


def extend(frame: bytes, donor: Draft, rng: Random) -> bytes:
    """Go on after the end."""
    return frame + rng.choice((b"\0", rng.randbytes(rng.randrange(1, 200)), frame))


def cross(frame: bytes, donor: Draft, rng: Random) -> bytes:
    """Go on as another frame does."""
    place = rng.randrange(len(frame) + 1)
    return frame[:place] + donor.pack()[place:]


def damage_bytes(frame: bytes, donor: Draft, rng: Random) -> bytes:
    """Change bytes anywhere; nothing is made right."""
    data = bytearray(frame)
    for _ in range(rng.choice((1, 2, 8))):
        rng.choice(BYTES)(data, rng)
    return bytes(data)


HEADER_FIELDS: tuple[tuple[str, int], ...] = (("version", 1), ("flags", 1), ("g", 1), ("reserved", 1), ("n", 8))
HEADER_FIELDS += (("k", 8), ("bodies", 8), ("s", 4), ("t", 4), ("since", 8), ("to", 8))
BODIES: dict[Damage, int] = {
    damage_stored: 30,
    damage_content: 40,
    resize: 8,
    transcode: 10,
    forge_zstd: 25,
    exceed: 8,
    miscount: 4,
    splice: 4,
    swap: 2,
}
"""Damage to bodies and how often each is drawn."""
DRAWN = tuple(BODIES), tuple(BODIES.values())
TABLES: tuple[Damage, ...] = (damage_header, damage_record, damage_record, damage_exponents, misidentify, resegment)
FRAMES: tuple[BytesDamage, ...] = (cut, extend, cross, damage_bytes)
