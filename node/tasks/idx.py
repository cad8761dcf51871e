"""Read IDX files, the format of the MNIST family: big-endian header, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import ConfigError

UNSIGNED_BYTE = 8


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in a gzipped IDX file; raises ConfigError if it is no such file."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is no complete gzip file: {error}") from error
    if len(data) < 4 or data[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise ConfigError(f"{path} is no IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:start]) if len(data) >= start else ()
    if not shape or len(data) != start + math.prod(shape):
        raise ConfigError(f"{path}: its header does not fit its {len(data)} bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
