"""Masks: which of `domain` places are taken, coded the smallest of six ways.

The same coder says which entries of a segment are present and, plane by plane, which of them have a level
above 1, above 2, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, TypeAlias

import numpy as np

from . import entropy, loops
from .bits import ESCAPE, Places, plane_bytes
from .entropy import Buffer
from .limits import MAX_LOG2_SEGMENT

DENSEST_GAPS: Final = 4
"""Gaps are tried up to one place in 4: beyond, a byte per entry is more than a bit per place."""
SPAREST_BITMAP: Final = 64
"""Bitmaps are tried from one place in 64: below, a Huffman code of at least a bit per byte costs more than gaps."""
FEW: Final = 4096
"""Fewer gaps than this are cut to a smaller alphabet."""


Effort: TypeAlias = Literal["normal", "high"]
"""How many of the possible codings an encoder tries: those that its rules pick, or all near them."""
TRIED_AROUND: Final = 2
"""Shifts tried on either side of the best guess with high effort."""


class Coding(IntEnum):
    """How a mask is stored; the numbers stand in frames."""

    EMPTY = 0
    FULL = 1
    BITMAP = 2
    BITMAP_ENTROPY = 3
    GAPS = 4
    GAPS_ENTROPY = 5


CODINGS: Final = tuple(Coding)
"""By number."""


@dataclass(frozen=True, slots=True)
class Mask:
    """`count` places in a coding with its parameter (`shift`, of gaps only) and its bytes."""

    coding: Coding
    shift: int
    count: int
    data: Buffer


def encode(places: Places, domain: int, effort: Effort = "normal") -> Mask:
    """Code ascending places below `domain` in the smallest coding that its density does not rule out."""
    count = len(places)
    if count == 0:
        return Mask(Coding.EMPTY, 0, 0, b"")
    if count == domain:
        return Mask(Coding.FULL, 0, count, b"")
    wider = 2 if effort == "high" else 1
    tried = []
    if count * SPAREST_BITMAP * wider >= domain:
        tried.append(_encode_bitmap(places, domain))
    if count * DENSEST_GAPS <= domain * wider:
        tried += [_encode_gaps(places, shift) for shift in _shifts(count, domain, effort)]
    return min(tried, key=lambda mask: len(mask.data))


def _shifts(count: int, domain: int, effort: Effort) -> range:
    best, around = best_shift(count, domain), TRIED_AROUND if effort == "high" else 0
    return range(max(0, best - around), best + around + 1)


def decode(mask: Mask, domain: int, passed: Places | None = None) -> Places:
    """Return the places of a mask whose `fits` held; raise FrameError if its bytes say anything else.

    With `passed`, `domain` numbers which this call uses up, those of them that the mask takes.
    """
    return _DECODERS[mask.coding](mask, domain, passed)


def fits(coding: int, shift: int, count: int, domain: int, length: int) -> bool:
    """Say whether a mask's count and length are possible for its coding and domain."""
    possible = _POSSIBLE.get(coding)
    return possible is not None and count <= domain and possible(shift, count, domain, length)


def most_quotients(count: int, domain: int, shift: int) -> int:
    """Return the largest possible number of bytes in a gap plane: one per entry, and the escapes."""
    return count + (domain >> shift) // ESCAPE


def best_shift(count: int, domain: int) -> int:
    """Return how many low bits of the gaps are stored raw.

    Quotients then average 16 to 32: fewer raw bits gain where entries cluster and cost little where they do not.
    Of few entries the Huffman table weighs more than that: 4 to 8.
    """
    return max(0, (domain // count).bit_length() - (3 if count < FEW else 5))


def _encode_bitmap(places: Places, domain: int) -> Mask:
    """One bit per place."""
    plane = loops.pack_places(places, domain)
    data = entropy.pack(plane)
    return Mask(Coding.BITMAP_ENTROPY if len(data) < len(plane) else Coding.BITMAP, 0, len(places), data)


def _encode_gaps(places: Places, shift: int) -> Mask:
    """Free places before each entry: quotients by 2^shift in bytes, then all lowest bits, all second ones, ..., raw."""
    plane, low = loops.pack_gaps(places, shift)
    data = entropy.pack(plane)
    coding = Coding.GAPS_ENTROPY if len(data) < len(plane) else Coding.GAPS
    return Mask(coding, shift, len(places), data + low.tobytes())


def _keep_none(_mask: Mask, _domain: int, _passed: Places | None) -> Places:
    return np.zeros(0, dtype=np.int32)


def _keep_all(_mask: Mask, domain: int, passed: Places | None) -> Places:
    return np.arange(domain, dtype=np.int32) if passed is None else passed


def _keep_ones(mask: Mask, domain: int, passed: Places | None) -> Places:
    return loops.bitmap(entropy.unpack(mask.data, plane_bytes(domain)), domain, mask.count, passed)


def _keep_after_gaps(mask: Mask, domain: int, passed: Places | None) -> Places:
    head = len(mask.data) - plane_bytes(mask.shift * mask.count)
    quotients = _gap_plane(mask, mask.data[:head], domain)
    low = np.frombuffer(mask.data[head:], dtype=np.uint8)
    return loops.gaps(quotients, low, mask.shift, mask.count, domain, passed)


def _gap_plane(mask: Mask, stored: Buffer, domain: int) -> entropy.Plane:
    """Return the bytes of the quotients; their number is only known within bounds."""
    if mask.coding == Coding.GAPS:
        return np.frombuffer(stored, dtype=np.uint8)
    least = max(mask.count, len(stored) + 1)
    return entropy.expand(stored, least, most_quotients(mask.count, domain, mask.shift))


_DECODERS: dict[Coding, Callable[[Mask, int, Places | None], Places]] = {
    Coding.EMPTY: _keep_none,
    Coding.FULL: _keep_all,
    Coding.BITMAP: _keep_ones,
    Coding.BITMAP_ENTROPY: _keep_ones,
    Coding.GAPS: _keep_after_gaps,
    Coding.GAPS_ENTROPY: _keep_after_gaps,
}


def _gaps_fit(shift: int, count: int, domain: int) -> bool:
    """Say whether gaps may be the coding of so many places."""
    return 0 < 2 * count <= domain and shift <= MAX_LOG2_SEGMENT


_POSSIBLE: dict[int, Callable[[int, int, int, int], bool]] = {
    Coding.EMPTY: lambda shift, count, domain, length: shift == count == length == 0,
    Coding.FULL: lambda shift, count, domain, length: shift == length == 0 < count == domain,
    Coding.BITMAP: lambda shift, count, domain, length: shift == 0 < count and length == plane_bytes(domain),
    Coding.BITMAP_ENTROPY: lambda shift, count, domain, length: shift == 0 < count and 0 < length < plane_bytes(domain),
    Coding.GAPS: lambda shift, count, domain, length: (
        _gaps_fit(shift, count, domain)
        and count <= length - plane_bytes(shift * count) <= most_quotients(count, domain, shift)
    ),
    Coding.GAPS_ENTROPY: lambda shift, count, domain, length: (
        _gaps_fit(shift, count, domain)
        and 0 < length - plane_bytes(shift * count) < most_quotients(count, domain, shift)
    ),
}
"""Whether shift, count, domain and length go together, for a count that the domain allows."""
