"""Segments: a run of 2^log2_segment places of the flat index space, coded by itself, and its record in the table.

The table's records have one size, so the bytes of any segment are found without reading the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from . import levels, loops, masks
from .bits import Integers, Places, plane_bytes
from .entropy import Buffer
from .errors import FrameError, Refusal
from .levels import EXCESS_PLANES, MAX_PLANES, Levels
from .limits import MAX_SEGMENT_ENTRIES
from .masks import Coding, Effort, Mask

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


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: which places are taken, their signs (a raw plane, ones are negative), their levels."""

    mask: Mask
    signs: Buffer
    levels: Levels

    def record(self) -> tuple[object, ...]:
        """Return the fields of RECORD that describe this segment."""
        chain = (self.mask, *self.levels.planes)
        unused = [0] * (MASKS - len(chain))
        return (
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


def read(record: np.void, sizes: list[int], body: Buffer) -> Segment:
    """Cut the body of one segment into planes of these sizes and name them as its record, once checked, says."""
    ends = accumulate(sizes, initial=0)
    mask, signs, *rest = (body[start:end] for start, end in pairwise(ends))
    fields = zip(record["codings"].tolist(), record["counts"].tolist(), [mask, *rest], strict=False)
    chain = [Mask(Coding(code >> SHIFT_BITS), code & 31, count, data) for code, count, data in fields]
    unary = tuple(chain[1 : 1 + int(record["planes"])])
    digits, *excess = rest[MAX_PLANES:]
    coded = Levels(unary, int(record["width"]), digits, int(record["exceptions"]), tuple(excess))
    return Segment(chain[0], signs, coded)


def plane_sizes(table: Table) -> Integers:
    """Return the lengths of the planes of each record, (segments, 12), in the order of the body."""
    lengths = table["lengths"].astype(np.int64)
    signs = plane_bytes(table["counts"][:, :1].astype(np.int64))
    return np.hstack([lengths[:, :1], signs, lengths[:, 1:], table["rest"][:, None], table["excess"]], dtype=np.int64)


def check(table: Table, sizes: Integers) -> None:
    """Raise FrameError unless every record is possible for a segment of its size; looks at no plane."""
    if not (_masks_fit(table, sizes) and _rest_fits(table)):
        raise FrameError(Refusal.BAD_HEADER, "a segment's record contradicts itself")


def _masks_fit(table: Table, sizes: Integers) -> bool:
    """Say whether all records have possible masks, a chain without holes, and zeros where nothing is used."""
    counts, lengths = table["counts"].astype(np.int64), table["lengths"].astype(np.int64)
    domains = np.hstack([sizes[:, None], counts[:, :-1]])
    codings = table["codings"].astype(np.int64)
    planes = table["planes"].astype(np.int64)
    used = np.arange(MASKS) <= planes[:, None]
    possible = masks.fits(codings >> SHIFT_BITS, codings & 31, counts, domains, lengths)
    unused = (counts | lengths | codings) == 0
    chain = np.where(used, possible & (domains > 0), unused)
    return bool(chain.all() and (planes <= MAX_PLANES).all() and (counts[:, 0] <= MAX_SEGMENT_ENTRIES).all())


def _rest_fits(table: Table) -> bool:
    """Say whether all records have digits and excess planes of possible lengths."""
    counts = table["counts"].astype(np.int64)
    width = table["width"].astype(np.int64)
    depth = np.minimum(table["planes"], MAX_PLANES).astype(np.int64)
    left = np.take_along_axis(counts, depth[:, None], axis=1)[:, 0]
    known = np.where(left > 0, (width == 4) | (width == 8), width == 0)
    exceptions = table["exceptions"].astype(np.int64)
    lengths = np.hstack([table["rest"][:, None], table["excess"]], dtype=np.int64)
    raw = np.repeat(exceptions[:, None], 1 + EXCESS_PLANES, axis=1)
    raw[:, 0] = plane_bytes(left * width)
    filled = (lengths <= raw) & ((lengths > 0) == (raw > 0))
    return bool(known.all() and (exceptions <= left).all() and filled.all())
