import random
import tracemalloc

import numpy as np
import pytest
import zstandard

from peermerge.protocol.codec import Frame, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.layout import HEADER_BYTES
from peermerge.protocol.limits import max_frame_bytes
from peermerge.protocol.manifest import Manifest
from peermerge.protocol.masks import Coding
from peermerge.protocol.segments import RECORD

from .frames import decode, delta_with, manifest_with, with_checksum, with_record

MANIFEST = manifest_with((90, 70), (3,), (0, 2), (40, 50))
"""Three segments of 2^12; the second tensor is mostly padding."""


def frame_with(density: float, levels: list[int], seed: int = 0) -> bytes:
    delta = delta_with(MANIFEST, np.random.default_rng(seed), density, levels)
    return encode(delta, MANIFEST, from_version=0, to_version=1, log2_segment=12)


FRAMES = {
    "empty": frame_with(0, [1]),
    "gaps": frame_with(0.02, [1]),
    "bitmap": frame_with(0.2, [1, 1, 2, 3]),
    "raw bitmap": frame_with(0.5, [1, 5, 9, 14]),
    "full": frame_with(1.0, [1, 1, 1, 1, 2, 300, 70_000, 1 << 29]),
    "bytes": frame_with(0.3, list(range(1, 300))),
}


def refusal_of(frame: bytes, manifest: Manifest = MANIFEST) -> Refusal:
    with pytest.raises(FrameError) as caught:
        decode(frame, manifest)
    return caught.value.refusal


def outcome(frame: bytes) -> Refusal | None:
    """Decode anything: a valid delta or a refusal, nothing else."""
    try:
        delta = decode(frame, MANIFEST)
    except FrameError as error:
        return error.refusal
    delta.check(MANIFEST)
    assert [delta.index.itemsize, delta.levels.itemsize, delta.exponents.itemsize] == [8, 4, 1]
    return None


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_at_any_byte_is_truncated(name: str) -> None:
    frame = FRAMES[name]
    decode(frame, MANIFEST)
    ends = range(len(frame)) if len(frame) < 1500 else [*range(400), *range(400, len(frame), 7), len(frame) - 1]
    assert {refusal_of(frame[:end]) for end in ends} == {Refusal.TRUNCATED}


@pytest.mark.parametrize("name", FRAMES)
def test_bytes_after_the_end_are_refused(name: str) -> None:
    assert refusal_of(FRAMES[name] + b"\0") is Refusal.BAD_HEADER


@pytest.mark.parametrize("name", FRAMES)
def test_any_flipped_bit_of_the_tables_is_noticed(name: str) -> None:
    frame = FRAMES[name]
    for place in range(HEADER_BYTES + len(MANIFEST.tensors) + 3 * RECORD.itemsize):
        damaged = bytearray(frame)
        damaged[place] ^= 1 << place % 8
        assert outcome(bytes(damaged)) is not None


@pytest.mark.parametrize("name", FRAMES)
def test_flipped_bits_of_the_bodies_give_a_valid_delta_or_a_refusal(name: str) -> None:
    frame = FRAMES[name]
    start = HEADER_BYTES + len(MANIFEST.tensors) + 3 * RECORD.itemsize
    for place in range(start, len(frame), 1 + len(frame) // 1000):
        damaged = bytearray(frame)
        damaged[place] ^= 1 << place % 8
        outcome(bytes(damaged))


def mutated(frame: bytes, rng: random.Random) -> bytes:
    """Return the frame with a few bytes, numbers or runs replaced, and often a right checksum."""
    damaged = bytearray(frame)
    for _ in range(rng.choice([1, 1, 2, 4])):
        start = rng.randrange(8, len(damaged))
        end = min(len(damaged), start + rng.choice([1, 1, 2, 4, 8]))
        patterns = [bytes(8), b"\xff" * 8, rng.randbytes(8), bytes([1, 0, 0, 0, 0, 0, 0, 0]), b"\xff\xff\xff\x7f" * 2]
        damaged[start:end] = rng.choice(patterns)[: end - start]
    if rng.random() < 0.1:
        damaged[rng.randrange(92, len(damaged)) :] = rng.randbytes(rng.randrange(64))
    counts_stand = len(damaged) >= HEADER_BYTES + len(MANIFEST.tensors) + 3 * RECORD.itemsize
    numbers_stand = damaged[32:40] == frame[32:40]
    return with_checksum(bytes(damaged)) if counts_stand and numbers_stand else bytes(damaged)


@pytest.mark.parametrize("name", FRAMES)
def test_mutations_never_raise_anything_but_a_frame_error(name: str) -> None:
    rng = random.Random(f"mutations of {name}")
    reasons = {outcome(mutated(FRAMES[name], rng)) for _ in range(1000)}
    assert len(reasons) >= 3


def test_mutations_of_the_records_alone_never_raise_anything_but_a_frame_error() -> None:
    rng = random.Random(11)
    start = HEADER_BYTES + len(MANIFEST.tensors)
    for frame in FRAMES.values():
        for _ in range(400):
            damaged = bytearray(frame)
            place = start + rng.randrange(3 * RECORD.itemsize)
            damaged[place] = (damaged[place] + rng.choice([1, 255, 32, 224, rng.randrange(256)])) % 256
            outcome(with_checksum(bytes(damaged)))


def test_random_bytes_are_refused() -> None:
    rng = random.Random(3)
    for _ in range(500):
        assert outcome(rng.randbytes(rng.randrange(1, 600))) in {Refusal.BAD_MAGIC, Refusal.TRUNCATED}
        assert outcome(b"PMRF\x01\0\x0c\0" + rng.randbytes(rng.randrange(600))) is not None


def test_the_fields_of_the_header_are_refused_by_name() -> None:
    frame = FRAMES["gaps"]

    def changed(place: int, value: bytes) -> bytes:
        return with_checksum(frame[:place] + value + frame[place + len(value) :])

    assert refusal_of(b"") is Refusal.TRUNCATED
    assert refusal_of(b"GIF8" + frame[4:]) is Refusal.BAD_MAGIC
    assert refusal_of(b"GIF") is Refusal.BAD_MAGIC
    assert refusal_of(changed(4, b"\x02")) is Refusal.UNSUPPORTED_VERSION
    assert refusal_of(changed(5, b"\x01")) is Refusal.UNSUPPORTED_VERSION
    assert refusal_of(changed(7, b"\x01")) is Refusal.UNSUPPORTED_VERSION
    assert refusal_of(changed(6, b"\x0d")) is Refusal.BAD_HEADER
    assert refusal_of(changed(6, b"\xff")) is Refusal.BAD_HEADER
    assert refusal_of(changed(8, b"\x01")) is Refusal.MANIFEST_MISMATCH
    assert refusal_of(changed(16, b"\x00\x00")) is Refusal.BAD_HEADER
    assert refusal_of(changed(16, b"\xff" * 8)) is Refusal.BAD_HEADER
    assert refusal_of(changed(24, b"\xff" * 8)) is Refusal.TRUNCATED
    assert refusal_of(changed(40, b"\x02")) is Refusal.BAD_HEADER
    assert refusal_of(changed(48, b"\xff" * 8)) is Refusal.BAD_HEADER
    assert refusal_of(changed(56, b"????")) is Refusal.MANIFEST_MISMATCH
    assert refusal_of(frame[:88] + b"????" + frame[92:]) is Refusal.DIGEST_MISMATCH
    assert refusal_of(changed(HEADER_BYTES, b"\x7f")) is Refusal.NON_FINITE
    assert refusal_of(changed(HEADER_BYTES, b"\x80")) is Refusal.NON_FINITE


def test_the_frame_of_another_model_is_refused() -> None:
    assert refusal_of(FRAMES["gaps"], manifest_with((90, 70), (3,), (0, 2), (50, 40))) is Refusal.MANIFEST_MISMATCH


def test_a_frame_above_the_cap_is_refused_whatever_it_says() -> None:
    cap = max_frame_bytes(MANIFEST.parameters, len(MANIFEST.tensors))
    assert refusal_of(FRAMES["gaps"] + bytes(cap)) is Refusal.OVERSIZE


@pytest.mark.parametrize(
    "fields",
    [
        {"counts": [4097, 0, 0, 0, 0, 0]},
        {"counts": [0xFFFFFFFF] * 6},
        {"counts": [0] * 6},
        {"lengths": [0xFFFFFFFF] * 6},
        {"codings": [Coding.FULL << 5, 0, 0, 0, 0, 0]},
        {"codings": [7 << 5, 0, 0, 0, 0, 0]},
        {"codings": [Coding.GAPS << 5 | 31, 0, 0, 0, 0, 0]},
        {"planes": 6},
        {"planes": 255},
        {"planes": 2},
        {"planes": 0},
        {"width": 4},
        {"rest": 1},
        {"exceptions": 1},
        {"excess": [0, 0, 0, 1]},
    ],
)
def test_records_that_contradict_themselves_are_refused_before_any_plane(fields: dict[str, object]) -> None:
    with pytest.raises(FrameError) as caught:
        Frame.open(with_record(FRAMES["gaps"], MANIFEST, **fields), MANIFEST)
    assert caught.value.refusal is Refusal.BAD_HEADER


BIG = manifest_with((1 << 11, 1 << 11))


def bomb(plane: bytes) -> bytes:
    """Return a frame of one segment of 2^22 whose compressed bitmap is replaced by other bytes."""
    index = np.flatnonzero(np.random.default_rng(0).random(BIG.length) < 0.2).astype(np.int64)
    delta = Delta(np.zeros(1, np.int8), index, np.ones(len(index), np.int32))
    frame = encode(delta, BIG, from_version=0, to_version=1, log2_segment=22)
    start = HEADER_BYTES + 1
    old = int(np.frombuffer(frame, RECORD, 1, start)["lengths"][0, 0])
    body = start + RECORD.itemsize
    frame = frame[:body] + plane + frame[body + old :]
    frame = frame[:24] + (len(frame) - body).to_bytes(8, "little") + frame[32:]
    codings = [Coding.BITMAP_ENTROPY << 5, 0, 0, 0, 0, 0]
    return with_record(frame, BIG, lengths=[len(plane), 0, 0, 0, 0, 0], codings=codings)


def stating(content: int) -> bytes:
    """Return the header of a zstd frame that states this many bytes of content, and one block."""
    return b"\x28\xb5\x2f\xfd" + bytes([0b11000000, 0b00111000]) + content.to_bytes(8, "little") + b"\x03\0\0x"


@pytest.mark.parametrize(
    ("plane", "refusal"),
    [
        (zstandard.compress(bytes(1 << 28), 1), Refusal.OVERSIZE),
        (stating(1 << 45), Refusal.OVERSIZE),
        (stating((1 << 64) - 1), Refusal.OVERSIZE),
        (stating(1 << 19), Refusal.DECOMPRESS),
        (zstandard.compress(bytes(1 << 19), 19), Refusal.DECOMPRESS),
        (zstandard.compress(bytes(1 << 10), 1), Refusal.DECOMPRESS),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 19)), Refusal.OVERSIZE),
        (zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 19)), Refusal.DECOMPRESS),
        (b"\x50\x2a\x4d\x18\x00\x00\x08\x00" + bytes(8), Refusal.DECOMPRESS),
        (b"no zstd at all", Refusal.DECOMPRESS),
        (b"\x28", Refusal.DECOMPRESS),
    ],
)
def test_bombs_and_forged_sizes_are_refused_in_little_memory(plane: bytes, refusal: Refusal) -> None:
    frame = bomb(plane)
    tracemalloc.start()
    try:
        assert refusal_of(frame, BIG) is refusal
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 0.21 * BIG.length + (2 << 20)


def test_bytes_after_a_compressed_plane_are_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=17, write_content_size=True)
    plane = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(1 << 19))
    assert refusal_of(bomb(plane), BIG) is Refusal.BAD_INDEX
    assert refusal_of(bomb(plane + b"\0"), BIG) is Refusal.DECOMPRESS
    assert refusal_of(bomb(plane + plane), BIG) is Refusal.DECOMPRESS


def test_a_forged_number_of_entries_takes_no_memory() -> None:
    frame = bytearray(bomb(b"x" * 100))
    frame[16:24] = (1 << 22).to_bytes(8, "little")
    tracemalloc.start()
    try:
        assert refusal_of(with_checksum(bytes(frame)), BIG) is Refusal.BAD_HEADER
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21


def test_entries_in_the_padding_are_refused() -> None:
    padded, whole = manifest_with((60,)), manifest_with((64,))
    delta = Delta(np.zeros(1, np.int8), np.array([62], np.int64), np.array([1], np.int32))
    frame = encode(delta, whole, from_version=0, to_version=1)
    forged = with_checksum(frame[:56] + padded.digest + frame[88:])
    assert refusal_of(forged, padded) is Refusal.BAD_INDEX


def test_a_segment_of_more_than_2_to_the_20_entries_is_refused() -> None:
    delta = Delta(np.zeros(1, np.int8), np.arange((1 << 20) + 1), np.ones((1 << 20) + 1, np.int32))
    frame = encode(delta, BIG, from_version=0, to_version=1, log2_segment=22)
    assert refusal_of(frame, BIG) is Refusal.BAD_HEADER
    assert len(decode(encode(delta, BIG, from_version=0, to_version=1), BIG)) == len(delta)


def test_many_short_segments_of_few_bytes_are_refused() -> None:
    delta = Delta(np.zeros(1, np.int8), np.arange(0, 1 << 22, 1 << 12), np.ones(1 << 10, np.int32))
    with pytest.raises(FrameError) as caught:
        encode(delta, BIG, from_version=0, to_version=1, log2_segment=12)
    assert caught.value.refusal is Refusal.BAD_HEADER
