"""Masks: which of `domain` places are taken, coded the smallest of six ways.

The same coder says which entries of a segment are present and, plane by plane, which of them have a level
above 1, above 2, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import entropy
from .bits import Count, Integers, check_tail, ones, pack_bits, plane_bytes, unpack_bits
from .entropy import Buffer
from .errors import FrameError, Refusal
from .limits import MAX_LOG2_SEGMENT

Positions: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]

ESCAPE: Final = 255
"""A byte of a gap plane that adds 255 to the quotient and passes on to the next byte."""
DENSEST_GAPS: Final = 4
"""Gaps are tried up to one place in 4: beyond, a byte per entry is more than a bit per place."""
SPAREST_BITMAP: Final = 64
"""Bitmaps are tried from one place in 64: below, a Huffman code of at least a bit per byte costs more than gaps."""
FEW: Final = 4096
"""Fewer gaps than this are cut to a smaller alphabet."""


class Coding(IntEnum):
    """How a mask is stored; the numbers stand in frames."""

    EMPTY = 0
    FULL = 1
    BITMAP = 2
    BITMAP_ENTROPY = 3
    GAPS = 4
    GAPS_ENTROPY = 5


@dataclass(frozen=True, slots=True)
class Mask:
    """`count` places in a coding with its parameter (`shift`, of gaps only) and its bytes."""

    coding: Coding
    shift: int
    count: int
    data: Buffer


def encode(positions: Positions, domain: int) -> Mask:
    """Code ascending positions below `domain` in the smallest coding that its density does not rule out."""
    count = len(positions)
    if count == 0:
        return Mask(Coding.EMPTY, 0, 0, b"")
    if count == domain:
        return Mask(Coding.FULL, 0, count, b"")
    tried = []
    if count * SPAREST_BITMAP >= domain:
        tried.append(_encode_bitmap(positions, domain))
    if count * DENSEST_GAPS <= domain:
        tried.append(_encode_gaps(positions, best_shift(count, domain)))
    return min(tried, key=lambda mask: len(mask.data))


def decode(mask: Mask, domain: int) -> Positions:
    """Return the positions of a mask whose `fits` held; raise FrameError if its bytes say anything else."""
    return _DECODERS[mask.coding](mask, domain)


def fits(codings: Integers, shifts: Integers, counts: Integers, domains: Integers, lengths: Integers) -> Booleans:
    """Say for arrays of masks whether count and length are possible for coding and domain."""
    bitmap = plane_bytes(domains)
    quotients = lengths - plane_bytes(shifts * counts)
    most = most_quotients(counts, domains, shifts)
    possible = [
        (counts == 0) & (lengths == 0),
        (counts == domains) & (lengths == 0),
        lengths == bitmap,
        (lengths > 0) & (lengths < bitmap),
        (quotients >= counts) & (quotients <= most),
        (quotients > 0) & (quotients < most),
    ]
    known = np.select([codings == coding for coding in Coding], possible, default=False)
    most_shift = np.where(codings >= Coding.GAPS, MAX_LOG2_SEGMENT, 0)
    within = (counts <= domains) & (shifts <= most_shift) & ((counts > 0) | (codings == Coding.EMPTY))
    fitting: Booleans = known & within
    return fitting


def most_quotients(count: Count, domain: Count, shift: Count) -> Count:
    """Return the largest possible number of bytes in a gap plane: one per entry, and the escapes."""
    return count + (domain >> shift) // ESCAPE


def best_shift(count: int, domain: int) -> int:
    """Return how many low bits of the gaps are stored raw.

    Quotients then average 16 to 32: fewer raw bits gain where entries cluster and cost little where they do not.
    Of few entries the Huffman table weighs more than that: 4 to 8.
    """
    return max(0, (domain // count).bit_length() - (3 if count < FEW else 5))


def _encode_bitmap(positions: Positions, domain: int) -> Mask:
    """One bit per place."""
    taken = np.zeros(domain, dtype=np.bool_)
    taken[positions] = True
    plane = pack_bits(taken)
    data = entropy.pack(plane)
    return Mask(Coding.BITMAP_ENTROPY if len(data) < len(plane) else Coding.BITMAP, 0, len(positions), data)


def _encode_gaps(positions: Positions, shift: int) -> Mask:
    """Free places before each entry: quotients by 2^shift in bytes, then all lowest bits, all second ones, ..., raw."""
    gaps = np.diff(positions, prepend=-1) - 1
    plane = _quotient_bytes(gaps >> shift)
    data = entropy.pack(plane)
    low = pack_bits((gaps >> np.arange(shift)[:, None]) & 1).tobytes()
    coding = Coding.GAPS_ENTROPY if len(data) < len(plane) else Coding.GAPS
    return Mask(coding, shift, len(positions), data + low)


def _quotient_bytes(quotients: Integers) -> npt.NDArray[np.uint8]:
    """Write each quotient as quotient // 255 escapes and one byte of what remains."""
    escapes = quotients // ESCAPE
    places = np.cumsum(escapes) + np.arange(len(quotients))
    plane = np.full(int(places[-1]) + 1, ESCAPE, dtype=np.uint8)
    plane[places] = quotients - escapes * ESCAPE
    return plane


def _decode_empty(_mask: Mask, _domain: int) -> Positions:
    return np.zeros(0, dtype=np.int64)


def _decode_full(_mask: Mask, domain: int) -> Positions:
    return np.arange(domain, dtype=np.int64)


def _decode_bitmap(mask: Mask, domain: int) -> Positions:
    plane = entropy.unpack(mask.data, plane_bytes(domain))
    check_tail(plane, domain)
    return ones(plane, mask.count)


def _decode_gaps(mask: Mask, domain: int) -> Positions:
    """Undo `_encode_gaps`; sums stay below 2^57, so they cannot wrap before they are checked."""
    head = len(mask.data) - plane_bytes(mask.shift * mask.count)
    gaps = _quotients(_gap_plane(mask, mask.data[:head], domain), mask.count) << mask.shift
    low = unpack_bits(mask.data[head:], mask.shift * mask.count).reshape(mask.shift, mask.count)
    for bit, plane in enumerate(low):
        gaps |= plane.astype(np.int64) << bit
    positions = np.cumsum(gaps + 1) - 1
    if positions[-1] >= domain:
        raise FrameError(Refusal.BAD_INDEX, "gaps lead beyond the end of their segment")
    return positions


def _gap_plane(mask: Mask, stored: Buffer, domain: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of the quotients; their number is only known within bounds."""
    if mask.coding == Coding.GAPS:
        return np.frombuffer(stored, dtype=np.uint8)
    least = max(mask.count, len(stored) + 1)
    return entropy.expand(stored, least, most_quotients(mask.count, domain, mask.shift))


def _quotients(plane: npt.NDArray[np.uint8], count: int) -> Integers:
    """Read `count` quotients; raise FrameError if the bytes hold another number of them."""
    ends = np.flatnonzero(plane != ESCAPE)
    if len(ends) != count or ends[-1] != len(plane) - 1:
        raise FrameError(Refusal.BAD_INDEX, f"a gap plane does not hold {count} gaps")
    escapes = np.diff(ends, prepend=-1) - 1
    quotients = plane[ends].astype(np.int64)
    quotients += escapes * ESCAPE
    return quotients


_DECODERS: dict[Coding, Callable[[Mask, int], Positions]] = {
    Coding.EMPTY: _decode_empty,
    Coding.FULL: _decode_full,
    Coding.BITMAP: _decode_bitmap,
    Coding.BITMAP_ENTROPY: _decode_bitmap,
    Coding.GAPS: _decode_gaps,
    Coding.GAPS_ENTROPY: _decode_gaps,
}
