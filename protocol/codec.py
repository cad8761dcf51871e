"""Codec: a delta to the bytes of one frame and back, segment by segment; the format stands in README.md.

Encoding writes each segment as it is coded, decoding reads each as it is asked for: neither holds more than a few
segments, and both can work on several at a time. Decoding never trusts: whatever the bytes, it yields valid entries
or raises `FrameError`, and takes memory only for what the tables, the manifest and the frame's own length allow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from . import loops, segments
from .bits import Integers, Places
from .blob import Blob, blob_of
from .entropy import Buffer
from .errors import ConfigError, FrameError, Refusal
from .layout import Header, parse, segment_count
from .limits import LOG2_SEGMENT, MAX_LOG2_SEGMENT, MAX_SEGMENT_ENTRIES, MIN_LOG2_SEGMENT
from .manifest import Manifest
from .masks import Effort
from .parallel import ordered
from .segments import RECORD, Segment, Table

__all__ = ["Effort", "Frame", "Header", "Part", "Run", "Source", "encode", "runs", "write"]

ENOUGH_ENTRIES = 1 << 15
"""Segments grow until they hold so many entries on average: of fewer, an entropy stage's tables weigh too much."""
GROUP, FEW = 8, 4
"""Segments that a thread takes at a time, at most; of coded ones, which wait in memory for their turn, fewer."""

Result = TypeVar("Result")


class Source(Protocol):
    """What can be encoded: entries by place. A `Delta` is one, a published state (from the base) another."""

    @property
    def exponents(self) -> npt.NDArray[np.int8]:
        """The grid's exponent per tensor."""
        ...

    def check(self, manifest: Manifest) -> None:
        """Raise FrameError unless every receiver would accept this."""
        ...

    def counts(self, manifest: Manifest, log2_segment: int) -> Integers:
        """Return the number of entries of every segment of this length."""
        ...

    def part(self, start: int, stop: int) -> tuple[Places, npt.NDArray[np.int32]]:
        """Return the places (relative to `start`) and levels of the entries between two places."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Entries `begin` to `end` of a part: those of one tensor."""

    tensor: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """The entries of one segment: places relative to `start`, ascending, and levels, never zero."""

    start: int
    size: int
    places: Places
    levels: npt.NDArray[np.int32]
    runs: tuple[Run, ...]


def encode(
    source: Source,
    manifest: Manifest,
    *,
    from_version: int,
    to_version: int,
    log2_segment: int | None = None,
    effort: Effort = "normal",
    threads: int = 1,
) -> bytes:
    """Return the frame of what leads a published state from one version to another. See `write`."""
    file = io.BytesIO()
    write(
        file,
        source,
        manifest,
        from_version=from_version,
        to_version=to_version,
        log2_segment=log2_segment,
        effort=effort,
        threads=threads,
    )
    return file.getvalue()


def write(
    file: BinaryIO,
    source: Source,
    manifest: Manifest,
    *,
    from_version: int,
    to_version: int,
    log2_segment: int | None = None,
    effort: Effort = "normal",
    threads: int = 1,
) -> None:
    """Write a frame to the start of an empty file, segment by segment, the tables last; the bytes depend on no thread.

    Without `log2_segment` the segments' length follows from the number of entries. Raises FrameError for what no
    receiver would accept, ConfigError for an impossible segment length.
    """
    source.check(manifest)
    if log2_segment is None:
        log2, counts = best_segments(source, manifest)
    elif MIN_LOG2_SEGMENT <= log2_segment <= MAX_LOG2_SEGMENT:
        log2, counts = log2_segment, source.counts(manifest, log2_segment)
    else:
        raise ConfigError(f"log2_segment = {log2_segment}: choose from {MIN_LOG2_SEGMENT} to {MAX_LOG2_SEGMENT}")
    count = segment_count(manifest.length, log2)
    table: Table = np.zeros(count, dtype=RECORD)
    header = Header(
        log2_segment=log2,
        length=manifest.length,
        entries=0,
        body_length=0,
        segments=count,
        tensors=len(manifest.tensors),
        from_version=from_version,
        to_version=to_version,
        digest=manifest.digest,
    )
    file.seek(header.body_start)
    used = np.flatnonzero(counts).tolist()

    def coded(number: int) -> Segment:
        start, stop = number << log2, min(manifest.length, (number + 1) << log2)
        return segments.encode(*source.part(start, stop), stop - start, effort)

    for number, segment in zip(used, ordered(coded, used, threads, FEW), strict=True):
        table[number] = segment.record()
        for plane in segment.body():
            file.write(plane)
    header = header.filled(int(table["counts"][:, 0].sum(dtype=np.int64)), file.tell() - header.body_start)
    header.check(manifest)
    file.seek(0)
    file.write(header.pack(source.exponents.astype(np.int8).tobytes(), table.tobytes()))


def best_segments(source: Source, manifest: Manifest) -> tuple[int, Integers]:
    """Return the length of segments, as a power of two, and their entries: long where these are few, never too many."""
    counts = source.counts(manifest, LOG2_SEGMENT)
    total = int(counts.sum())
    log2 = LOG2_SEGMENT
    while log2 < MAX_LOG2_SEGMENT and len(counts) > 1 and total < ENOUGH_ENTRIES * len(counts):
        joined = np.add.reduceat(counts, np.arange(0, len(counts), 2))
        if joined.max() > MAX_SEGMENT_ENTRIES:
            break
        log2, counts = log2 + 1, joined
    return log2, counts


class Frame:
    """A frame whose tables hold what they must; its planes are read and checked part by part."""

    def __init__(
        self, blob: Blob, manifest: Manifest, header: Header, exponents: npt.NDArray[np.int8], table: Table
    ) -> None:
        self.manifest = manifest
        self.header = header
        self.exponents = exponents
        self._blob = blob
        self._table = table
        self._alone: Part | None = None
        """The part of a frame that has no other, once it was decoded: whoever checks a frame then applies it."""

    @classmethod
    def open(cls, frame: Buffer | Blob, manifest: Manifest) -> Frame:
        """Check all that needs no plane. Raises FrameError."""
        blob = blob_of(frame)
        return cls(blob, manifest, *parse(blob, manifest))

    def parts(self, threads: int = 1) -> Iterator[Part]:
        """Yield the entries, segment by segment, every rule of the format checked. Raises FrameError."""
        return self.map(lambda part: part, threads, most=1)

    def map(self, function: Callable[[Part], Result], threads: int = 1, *, most: int = GROUP) -> Iterator[Result]:
        """Yield what a function gives for each part, in order; parts are decoded and given to it on several threads."""
        if self._alone is not None:
            return map(function, [self._alone])

        def decoded(where: tuple[int, int]) -> Result:
            return function(self._part(*where))

        return ordered(decoded, list(self._used()), threads, most)

    def _used(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each segment with entries, and where its body begins."""
        begin = self.header.body_start
        for number, record in enumerate(segments.records(self._table)):
            if record.counts[0]:
                yield number, begin
                begin += sum(record.sizes)

    def _part(self, number: int, begin: int) -> Part:
        (record,) = segments.records(self._table[number : number + 1])
        body = memoryview(self._blob.read(begin, sum(record.sizes)))
        start, size = number << self.header.log2_segment, self.header.segment_size(number)
        places, levels = segments.decode(segments.read(record, body), size)
        part = Part(start, size, places, levels, runs(self.manifest, start, size, places))
        if len(places) == self.header.entries:
            self._alone = part
        return part

    def add_to(self, levels: npt.NDArray[np.int32], threads: int = 1) -> None:
        """Add the entries to an accumulator of the same grid, (N,). Raises FrameError; then some stay added."""

        def add(part: Part) -> bool:
            return loops.add(levels[part.start : part.start + part.size], part.places, part.levels, 0)

        if not all(self.map(add, threads)):
            raise FrameError(Refusal.OVERFLOW, "an accumulated level of 2^30 or more")


def runs(manifest: Manifest, start: int, size: int, places: Places) -> tuple[Run, ...]:
    """Split ascending places of a segment into runs, a tensor each. Raises FrameError if one lies in the padding."""
    starts = manifest.starts
    first, last = int(starts.searchsorted(start, side="right")) - 1, int(starts.searchsorted(start + size))
    begins = (starts[first:last] - start).astype(np.int32)
    cuts = [*places.searchsorted(begins).tolist(), len(places)]
    split = tuple(Run(t, cut, end) for t, (cut, end) in enumerate(pairwise(cuts), start=first) if cut < end)
    for run in split:
        if start + int(places[run.end - 1]) >= int(manifest.starts[run.tensor]) + int(manifest.sizes[run.tensor]):
            raise FrameError(Refusal.BAD_INDEX, "an entry lies in the padding")
    return split
