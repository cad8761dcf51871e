"""Segments: a run of 2^log2_segment places of the flat index space, coded by itself, and its record in the table.

The table's records have one size, so the bytes of any segment are found without reading the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from . import levels, loops, masks
from .bits import Places, plane_bytes
from .entropy import Buffer
from .levels import EXCESS_PLANES, MAX_PLANES, Levels
from .limits import MAX_SEGMENT_ENTRIES
from .masks import CODINGS, Effort, Mask

MASKS: Final = 1 + MAX_PLANES
SHIFT_BITS: Final = 5
"""The low bits of a mask's coding byte hold its shift, the upper three its coding."""

RECORD: Final = np.dtype(
    [
        ("counts", "<u4", MASKS),
        ("lengths", "<u4", MASKS),
        ("codings", "u1", MASKS),
        ("planes", "u1"),
        ("width", "u1"),
        ("rest", "<u4"),
        ("exceptions", "<u4"),
        ("excess", "<u4", EXCESS_PLANES),
    ]
)
"""80 bytes a segment. Index 0 of counts, lengths and codings is the mask, 1 to 5 are the unary planes."""

Table = np.ndarray[tuple[int], np.dtype[np.void]]
STEP: Final = 1024
"""Records that are read at a time."""


class Record(NamedTuple):
    """The fields of one RECORD, in its order."""

    counts: list[int]
    lengths: list[int]
    codings: list[int]
    planes: int
    width: int
    rest: int
    exceptions: int
    excess: list[int]

    @property
    def sizes(self) -> list[int]:
        """The lengths of the planes in the order of the body."""
        return [self.lengths[0], plane_bytes(self.counts[0]), *self.lengths[1:], self.rest, *self.excess]

    def fits(self, size: int) -> bool:
        """Say whether a segment of `size` places can have this record; looks at no plane."""
        return self.planes <= MAX_PLANES and self._masks_fit(size) and self._rest_fits()

    def _masks_fit(self, size: int) -> bool:
        """Say whether all masks are possible, each of those that the one before takes, and unused ones zero."""
        domain, unused = size, self.planes + 1
        for code, count, length in zip(self.codings[:unused], self.counts, self.lengths, strict=False):
            if not domain or not masks.fits(code >> SHIFT_BITS, code & 31, count, domain, length):
                return False
            domain = count
        zero = not any((*self.counts[unused:], *self.lengths[unused:], *self.codings[unused:]))
        return zero and self.counts[0] <= MAX_SEGMENT_ENTRIES

    def _rest_fits(self) -> bool:
        """Say whether the digits and the excess planes have possible lengths."""
        left = self.counts[self.planes]
        if self.width not in ((4, 8) if left else (0,)) or self.exceptions > left:
            return False
        digits = plane_bytes(left * self.width)
        return _filled(self.rest, digits) and all(_filled(length, self.exceptions) for length in self.excess)


def _filled(length: int, raw: int) -> bool:
    """Say whether a plane of `raw` bytes can be stored in `length`."""
    return 0 < length <= raw or length == raw == 0


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: which places are taken, their signs (a raw plane, ones are negative), their levels."""

    mask: Mask
    signs: Buffer
    levels: Levels

    def record(self) -> Record:
        """Return what describes this segment in the table."""
        chain = (self.mask, *self.levels.planes)
        unused = [0] * (MASKS - len(chain))
        return Record(
            [mask.count for mask in chain] + unused,
            [len(mask.data) for mask in chain] + unused,
            [mask.coding << SHIFT_BITS | mask.shift for mask in chain] + unused,
            len(self.levels.planes),
            self.levels.width,
            len(self.levels.rest),
            self.levels.exceptions,
            [len(plane) for plane in self.levels.excess],
        )

    def body(self) -> tuple[Buffer, ...]:
        """Return the planes in the order in which they stand in the frame."""
        unary = (plane.data for plane in self.levels.planes)
        return (self.mask.data, self.signs, *unary, self.levels.rest, *self.levels.excess)


def encode(places: Places, values: npt.NDArray[np.int32], domain: int, effort: Effort = "normal") -> Segment:
    """Code entries at ascending places below `domain`; values are signed levels, never zero."""
    magnitudes, signs = loops.split_signs(values)
    return Segment(masks.encode(places, domain, effort), signs.tobytes(), levels.encode(magnitudes, effort))


def decode(segment: Segment, domain: int) -> tuple[Places, npt.NDArray[np.int32]]:
    """Return places and signed levels of a segment whose record was checked; raise FrameError otherwise."""
    values = levels.decode(segment.levels, segment.mask.count)
    loops.negate(values, np.frombuffer(segment.signs, dtype=np.uint8))
    return masks.decode(segment.mask, domain), values


def records(table: Table) -> Iterator[Record]:
    """Yield the records of a table; a long one is never held as numbers of Python's as a whole."""
    for begin in range(0, len(table), STEP):
        columns = (table[name][begin : begin + STEP].tolist() for name in Record._fields)
        yield from map(Record, *columns)


def read(record: Record, body: Buffer) -> Segment:
    """Cut the body of one segment into planes and name them as its record, once checked, says."""
    ends = accumulate(record.sizes, initial=0)
    mask, signs, *rest = (body[start:end] for start, end in pairwise(ends))
    fields = zip(record.codings[: 1 + record.planes], record.counts, [mask, *rest], strict=False)
    first, *unary = (Mask(CODINGS[code >> SHIFT_BITS], code & 31, count, data) for code, count, data in fields)
    digits, *excess = rest[MAX_PLANES:]
    return Segment(first, signs, Levels(tuple(unary), record.width, digits, record.exceptions, tuple(excess)))
