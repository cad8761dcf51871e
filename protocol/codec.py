"""Codec: a `Delta` to the bytes of one frame and back; the format stands in README.md.

Decoding never trusts: whatever the bytes, it returns a valid delta or raises `FrameError`, and it takes memory
only for what the tables, the manifest and the frame's own length allow (12 bytes an entry, and one segment's work).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from . import segments
from .delta import Delta
from .entropy import Buffer
from .errors import ConfigError, FrameError, Refusal
from .layout import Header, parse, segment_count
from .limits import LOG2_SEGMENT, MAX_LOG2_SEGMENT, MIN_LOG2_SEGMENT
from .manifest import Manifest
from .segments import RECORD, Segment, Table

__all__ = ["Header", "decode", "encode", "read_header"]


def encode(
    delta: Delta, manifest: Manifest, *, from_version: int, to_version: int, log2_segment: int = LOG2_SEGMENT
) -> bytes:
    """Return the frame of a delta that leads a published state from one version to another.

    Raises FrameError for a delta that no receiver would accept, ConfigError for an impossible segment length.
    """
    if not MIN_LOG2_SEGMENT <= log2_segment <= MAX_LOG2_SEGMENT:
        raise ConfigError(f"log2_segment = {log2_segment}: choose from {MIN_LOG2_SEGMENT} to {MAX_LOG2_SEGMENT}")
    delta.check(manifest)
    table, body = _encode_segments(delta, manifest.length, log2_segment)
    header = Header(
        log2_segment=log2_segment,
        length=manifest.length,
        entries=len(delta),
        body_length=sum(map(len, body)),
        segments=len(table),
        tensors=len(manifest.tensors),
        from_version=from_version,
        to_version=to_version,
        digest=manifest.digest,
    )
    header.check(manifest)
    return b"".join([header.pack(delta.exponents.astype(np.int8).tobytes(), table.tobytes()), *body])


def decode(frame: Buffer, manifest: Manifest) -> Delta:
    """Return the delta of a frame, every rule of the format checked; raise FrameError on any other bytes."""
    view = memoryview(frame).cast("B")
    header, exponents, table = parse(view, manifest)
    delta = Delta(exponents.copy(), np.empty(header.entries, dtype=np.int64), np.empty(header.entries, dtype=np.int32))
    begin = 0
    for start, size, segment in _segments(header, table, view):
        positions, values = segments.decode(segment, size)
        end = begin + len(positions)
        np.add(positions, start, out=delta.index[begin:end])
        delta.levels[begin:end] = values
        begin = end
    _check_padding(delta.index, manifest)
    return delta


def read_header(frame: Buffer, manifest: Manifest) -> Header:
    """Return the header of a complete frame after every check that needs no plane; raise FrameError."""
    return parse(memoryview(frame).cast("B"), manifest)[0]


def _encode_segments(delta: Delta, length: int, log2_segment: int) -> tuple[Table, list[Buffer]]:
    """Return the segment table and all planes in order; segments without entries cost their record only."""
    count = segment_count(length, log2_segment)
    table: Table = np.zeros(count, dtype=RECORD)
    starts = np.arange(count + 1, dtype=np.int64) << log2_segment
    bounds = np.searchsorted(delta.index, starts)
    body: list[Buffer] = []
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        part = slice(bounds[number], bounds[number + 1])
        start = int(starts[number])
        segment = segments.encode(delta.index[part] - start, delta.levels[part], min(length - start, 1 << log2_segment))
        table[number] = segment.record()
        body.extend(segment.body())
    return table, body


def _segments(header: Header, table: Table, frame: memoryview) -> Iterator[tuple[int, int, Segment]]:
    """Yield first place, number of places and planes of every segment that has entries."""
    planes = segments.plane_sizes(table)
    ends = header.body_start + np.cumsum(planes.sum(axis=1))
    begins = ends - planes.sum(axis=1)
    sizes = header.segment_sizes()
    for number in np.flatnonzero(table["counts"][:, 0]).tolist():
        segment = segments.read(table[number], planes[number].tolist(), frame[begins[number] : ends[number]])
        yield number << header.log2_segment, int(sizes[number]), segment


def _check_padding(index: npt.NDArray[np.int64], manifest: Manifest) -> None:
    """Raise FrameError if an entry lies between the end of a tensor and the start of the next."""
    sizes = np.fromiter((tensor.size for tensor in manifest.tensors), dtype=np.int64, count=len(manifest.tensors))
    ends = np.searchsorted(index, manifest.starts[:-1] + sizes)
    if (ends != np.searchsorted(index, manifest.starts[1:])).any():
        raise FrameError(Refusal.BAD_INDEX, "an entry lies in the padding")
