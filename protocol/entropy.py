"""Entropy stage: zstd used as a Huffman coder for byte planes, each of a size known before it is unpacked.

A plane is stored raw where zstd would not make it smaller. Every zstd frame states its content size, which is
compared with what the tables allow before a byte of output is allocated: zstd itself would believe the frame.
"""

from __future__ import annotations

import threading
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from .errors import FrameError, Refusal

Buffer: TypeAlias = bytes | memoryview
Plane: TypeAlias = npt.NDArray[np.uint8]

WINDOW_LOG: Final = 17
SMALLEST: Final = 32
"""Shorter planes are not worth trying: a zstd frame and its Huffman table cost more than they save."""


class _Tools(threading.local):
    """One compressor and one decompressor per thread: neither may be shared."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST,
            hash_log=6,
            min_match=7,
            window_log=WINDOW_LOG,
            write_content_size=True,
            write_checksum=False,
            write_dict_id=False,
        )
        self.compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)


_TOOLS = _Tools()


def pack(plane: Plane) -> bytes:
    """Return the plane as one zstd frame, or its own bytes where that is not smaller."""
    raw = plane.tobytes()
    if len(raw) < SMALLEST:
        return raw
    packed = _TOOLS.compressor.compress(raw)
    return packed if len(packed) < len(raw) else raw


def unpack(stored: Buffer, size: int) -> Plane:
    """Return a plane of exactly `size` bytes: raw if it is stored in as many bytes, else from zstd."""
    return np.frombuffer(stored, dtype=np.uint8) if len(stored) == size else expand(stored, size, size)


def expand(stored: Buffer, least: int, most: int) -> Plane:
    """Decompress one zstd frame of `least` to `most` bytes of content; raise FrameError before allocating more."""
    size = _content_size(stored, least, most)
    try:
        plane = _TOOLS.decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(Refusal.DECOMPRESS, str(error)) from error
    if len(plane) != size:
        raise FrameError(Refusal.DECOMPRESS, f"{len(plane)} bytes of {size}")
    return np.frombuffer(plane, dtype=np.uint8)


def _content_size(stored: Buffer, least: int, most: int) -> int:
    """Read what the frame says of itself and refuse what our encoder never writes."""
    try:
        stated = zstandard.get_frame_parameters(stored)
    except zstandard.ZstdError as error:
        raise FrameError(Refusal.DECOMPRESS, str(error)) from error
    if stated.content_size > most:
        raise FrameError(Refusal.OVERSIZE, f"a plane of at most {most} bytes states {stated.content_size}")
    if stated.content_size < least:
        raise FrameError(Refusal.DECOMPRESS, f"a plane of at least {least} bytes states {stated.content_size}")
    if stated.window_size > 1 << WINDOW_LOG or stated.dict_id or stated.has_checksum:
        raise FrameError(Refusal.DECOMPRESS, "a window, dictionary or checksum that frames do not use")
    return stated.content_size
