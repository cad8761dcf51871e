"""Frames made to cost a receiver as much as bytes can buy: how long does each take?

python -m tests.fuzz.extremes

Nearly all of such a frame are the raw signs, a bit for each entry; every other plane is a zstd frame of a few bytes
that expands 128 KiB at a time. Mutation does not come upon such frames: they are timed here, undamaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import thread_time

import numpy as np

from peermerge.protocol import loops
from peermerge.protocol.codec import Frame
from peermerge.protocol.manifest import Manifest, manifest_of

from ..protocol.plain_decoder import BITMAP_ENTROPY, FULL, GAPS_ENTROPY
from .draft import BEYOND, CODINGS, COUNTS, EXCEPTIONS, MASK, PLANES, REST, SIGNS, UNARY, WIDTH, Draft, Segment
from .zstd_forgery import header, runs

SEGMENTS, LENGTH = 8, 1 << 20
"""Together 2^23 entries, of which the signs are one MiB."""
REPEATS = 3


def extremes() -> Iterator[tuple[str, bytes, Manifest]]:
    """Yield frames by name."""
    yield "full", *frame_of(dense(FULL, 0, continued=False))
    yield "full, five full planes", *frame_of(dense(FULL, 5, continued=False))
    yield "full, all continued", *frame_of(dense(FULL, 0, continued=True))
    yield "bitmaps, five planes", *frame_of(dense(BITMAP_ENTROPY, 5, continued=False))
    yield "bitmaps, five planes, all continued", *frame_of(dense(BITMAP_ENTROPY, 5, continued=True))
    yield "gaps of one", *frame_of(half())


def frame_of(segment: Segment) -> tuple[bytes, Manifest]:
    """Return the frame of equal segments, and its model."""
    manifest = manifest_of([("t", (SEGMENTS * LENGTH,), "float32", False)])
    draft = Draft(20, manifest.length, 0, 1, manifest.digest, b"\0", [segment.copy() for _ in range(SEGMENTS)])
    draft.settle()
    return draft.pack(), manifest


def dense(coding: int, planes: int, *, continued: bool) -> Segment:
    """Return a segment with all places taken, all masks in one coding, and digits that are continued or zero."""
    segment = Segment()
    record = segment.record
    for number in range(planes + 1):
        record[COUNTS + number] = LENGTH
        record[CODINGS + number] = coding * 32
        if coding == BITMAP_ENTROPY:
            segment.planes[UNARY + number - 1 if number else MASK] = expanding(LENGTH // 8, 255)
    segment.planes[SIGNS] = bytes(LENGTH // 8)
    record[PLANES], record[WIDTH] = planes, 8
    segment.planes[REST] = expanding(LENGTH, 255 if continued else 0)
    if continued:
        record[EXCEPTIONS] = LENGTH
        segment.planes[BEYOND:] = [expanding(LENGTH, 0)] * 4
    return segment


def half() -> Segment:
    """Return a segment with every second place taken, by gaps: no gaps may be denser."""
    segment = Segment()
    count = LENGTH // 2
    segment.record[COUNTS], segment.record[CODINGS], segment.record[WIDTH] = count, GAPS_ENTROPY * 32, 8
    segment.planes[MASK] = expanding(count, 1)
    segment.planes[SIGNS] = bytes(count // 8)
    segment.planes[REST] = expanding(count, 0)
    return segment


def expanding(size: int, byte: int) -> bytes:
    """Return a small zstd frame of `size` equal bytes."""
    return header(size, 17) + runs(size, byte)


def ms_per_mib(frame: bytes, manifest: Manifest) -> float:
    """Return how long decoding and adding takes, the best of a few times."""
    best = float("inf")
    for _ in range(REPEATS):
        levels = np.zeros(manifest.length, np.int32)
        began = thread_time()
        Frame.open(frame, manifest).add_to(levels)
        best = min(best, thread_time() - began)
    return 1000 * best / (len(frame) / (1 << 20))


def main() -> None:
    """Print a line of all extremes."""
    times = (f"{name} {ms_per_mib(frame, manifest):.0f}" for name, frame, manifest in extremes())
    print(f"extremes, {'compiled' if loops.COMPILED else 'numpy'}, ms per MiB: {'; '.join(times)}")


if __name__ == "__main__":
    main()
