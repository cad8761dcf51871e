"""zstd frames made by hand (RFC 8878): true ones, and ones whose header lies."""

from __future__ import annotations

from random import Random

MAGIC = b"\x28\xb5\x2f\xfd"
OTHER_MAGICS = (b"\x27\xb5\x2f\xfd", b"\x25\xb5\x2f\xfd", b"\x37\xa4\x30\xec", b"\x50\x2a\x4d\x18", b"\x5f\x2a\x4d\x18")
"""Older formats, a dictionary, skippable frames."""
RAW, RLE, COMPRESSED, RESERVED = range(4)
LARGEST_BLOCK = 1 << 17
WINDOW_LOGS = (10, 17, 17, 18, 20, 27, 31, 41)


def header(content: int | None, window_log: int | None = None, checksum: bool = False, dictionary: int = 0) -> bytes:
    """Return a frame header that states its content size in eight bytes, or not at all.

    Without a window the frame is a single segment: its window is its content.
    """
    flags = (content is not None) << 7 | (content is not None) << 6 | (window_log is None) << 5 | checksum << 2
    flags |= 3 if dictionary else 0
    parts = [MAGIC, bytes([flags])]
    if window_log is not None:
        parts.append(bytes([(window_log - 10) << 3]))
    if dictionary:
        parts.append(dictionary.to_bytes(4, "little"))
    if content is not None:
        parts.append(content.to_bytes(8, "little"))
    elif window_log is None:
        parts.append(b"\0")
    return b"".join(parts)


def block(kind: int, size: int, data: bytes, last: bool) -> bytes:
    """Return one block; of an RLE block `size` is what it expands to."""
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + data


def runs(content: int, byte: int) -> bytes:
    """Return blocks that expand four bytes to 128 KiB, as often as it takes: a bomb."""
    sizes = [min(LARGEST_BLOCK, content - start) for start in range(0, content, LARGEST_BLOCK)] or [0]
    last = len(sizes) - 1
    return b"".join(block(RLE, size, bytes([byte]), i == last) for i, size in enumerate(sizes))


def forged(size: int, rng: Random) -> bytes:
    """Return a zstd frame, often a lying one, where one of `size` bytes of content is expected."""
    stated = rng.choice((size, size, size, size - 1, size + 1, 0, 2 * size, 1 << 17, 1 << 32, 1 << 45, (1 << 64) - 1))
    content = min(rng.choice((size, size, size, stated, size + 1, 4 * size, 1 << 24)), 1 << 24)
    window = rng.choice((None, None, *WINDOW_LOGS))
    head = header(
        None if rng.random() < 0.05 else max(0, stated), window, rng.random() < 0.05, 7 if rng.random() < 0.05 else 0
    )
    if rng.random() < 0.1:
        head = rng.choice(OTHER_MAGICS) + head[4:]
    if rng.random() < 0.1:
        return head + block(rng.choice((RAW, COMPRESSED, RESERVED)), rng.randrange(64), rng.randbytes(8), True)
    return head + runs(content, rng.choice((0, 255, rng.randrange(256)))) + rng.choice((b"", b"", b"", b"\0", head))
