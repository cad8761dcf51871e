import math
import os
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.protocol import loops
from peermerge.protocol.blob import FileBlob
from peermerge.protocol.codec import Frame, best_segments, encode, write
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import ConfigError, FrameError, Refusal
from peermerge.protocol.limits import MAX_LEVEL, max_frame_bytes
from peermerge.protocol.manifest import Manifest, manifest_of

from .frames import decode, delta_with, densities, generators, level_lists, manifest_with, same, shapes


def frame_of(delta: Delta, manifest: Manifest, log2_segment: int = 20) -> bytes:
    return encode(delta, manifest, from_version=0, to_version=1, log2_segment=log2_segment)


@settings(max_examples=100, deadline=None)
@given(shapes, generators, densities, level_lists, st.sampled_from([12, 13, 16, 20, 24]), st.sampled_from([1, 17]))
def test_decoding_returns_the_very_delta(
    tensors: list[tuple[int, ...]],
    rng: np.random.Generator,
    density: float,
    levels: list[int],
    log2_segment: int,
    runs: int,
) -> None:
    manifest = manifest_with(*tensors)
    delta = delta_with(manifest, rng, density, levels, runs)
    frame = frame_of(delta, manifest, log2_segment)
    assert same(decode(frame, manifest), delta)
    assert same(decode(memoryview(frame), manifest), delta)
    assert len(frame) <= max_frame_bytes(manifest.parameters, len(manifest.tensors))


@pytest.mark.parametrize("log2_segment", [12, 14, 18])
@pytest.mark.parametrize("density", [0.0001, 0.003, 0.03, 0.2, 0.6, 0.98, 1.0])
def test_many_segments_come_back(log2_segment: int, density: float) -> None:
    manifest = manifest_with((300, 301), (7,), (111, 1024))
    delta = delta_with(manifest, np.random.default_rng(3), density, [1, 1, 1, 2, 3, 40, 70_000])
    assert same(decode(frame_of(delta, manifest, log2_segment), manifest), delta)


def test_the_largest_levels_on_every_entry_stay_within_the_cap() -> None:
    manifest = manifest_with(*[(1,)] * 300, (90, 90))
    rng = np.random.default_rng(0)
    delta = delta_with(manifest, rng, 1.0, rng.integers(MAX_LEVEL // 2, MAX_LEVEL, 1000))
    for log2_segment in (12, 20):
        frame = frame_of(delta, manifest, log2_segment)
        assert same(decode(frame, manifest), delta)
        assert len(frame) <= max_frame_bytes(manifest.parameters, len(manifest.tensors))


@pytest.mark.parametrize("tensors", [(), ((0,),), ((0, 3), ())])
def test_a_model_of_nothing_and_a_delta_of_nothing_work(tensors: tuple[tuple[int, ...], ...]) -> None:
    manifest = manifest_with(*tensors)
    delta = delta_with(manifest, np.random.default_rng(0), 0.0)
    frame = frame_of(delta, manifest)
    assert same(decode(frame, manifest), delta)
    assert len(frame) == 92 + len(tensors) + 80 * (manifest.length > 0)


def test_the_layout_of_the_header_stands_at_fixed_offsets() -> None:
    manifest = manifest_with((100, 50), (3,))
    delta = Delta(np.array([-5, 7], np.int8), np.array([0, 4100, 5057], np.int64), np.array([1, -1, 1], np.int32))
    frame = encode(delta, manifest, from_version=258, to_version=(1 << 40) + 3, log2_segment=12)
    assert frame[0:4] == b"PMRF"
    assert frame[4:8] == bytes([1, 0, 12, 0])
    length, entries, body = struct.unpack_from("<QQQ", frame, 8)
    assert (length, entries, body) == (5120, 3, 9)
    assert struct.unpack_from("<II", frame, 32) == (2, 2)
    assert struct.unpack_from("<QQ", frame, 40) == (258, (1 << 40) + 3)
    assert frame[56:88] == manifest.digest
    tables = 92 + 2 + 2 * 80
    assert struct.unpack_from("<I", frame, 88) == (zlib.crc32(frame[:88] + frame[92:tables]),)
    assert frame[92:94] == bytes([0xFB, 7])
    assert len(frame) == tables + body


def test_the_layout_of_the_segments_stands_at_fixed_offsets() -> None:
    manifest = manifest_with((100, 50), (3,))
    delta = Delta(np.array([-5, 7], np.int8), np.array([0, 4100, 5057], np.int64), np.array([1, -3, 1], np.int32))
    frame = encode(delta, manifest, from_version=0, to_version=1, log2_segment=12)
    one, two = (struct.unpack_from("<6I6I6B2B2I4I", frame, offset) for offset in (94, 174))
    # counts | lengths | codings (4: gaps) with their shifts | unary planes, width | digits, exceptions | excess
    assert one == (1, *[0] * 5, 3, *[0] * 5, 4 << 5 | 10, *[0] * 5, 1, 0, 0, 0, *[0] * 4)
    assert two == (2, *[0] * 5, 4, *[0] * 5, 4 << 5 | 7, *[0] * 5, 0, 4, 1, 0, *[0] * 4)
    # quotient 0, ten low bits of nothing | no sign
    assert frame[254:258] == bytes([0, 0, 0, 0])
    # gaps 4 and 956: quotients by 128, low bits 0000100 and 0111100 from the lowest | first one negative | digits 2, 0
    assert frame[258:] == bytes([0, 7, 0b10110000, 0b00001010, 1, 2])


def test_read_header_says_what_the_frame_says() -> None:
    manifest = manifest_with((100, 50), (3,))
    delta = delta_with(manifest, np.random.default_rng(0), 0.1)
    frame = encode(delta, manifest, from_version=4, to_version=9, log2_segment=12)
    header = Frame.open(frame, manifest).header
    assert (header.from_version, header.to_version, header.entries) == (4, 9, len(delta))
    assert (header.segments, header.tensors, header.length, header.log2_segment) == (2, 2, 5120, 12)
    assert header.frame_length == len(frame) == header.body_start + header.body_length
    assert header.digest == manifest.digest


@pytest.mark.parametrize("log2_segment", [0, 11, 25, 64])
def test_an_impossible_segment_length_is_the_callers_mistake(log2_segment: int) -> None:
    manifest = manifest_with((3,))
    with pytest.raises(ConfigError, match="log2_segment"):
        frame_of(delta_with(manifest, np.random.default_rng(0), 1), manifest, log2_segment)


@pytest.mark.parametrize("versions", [(-1, 0), (2, 1), (0, 1 << 63)])
def test_versions_that_no_receiver_accepts_are_not_written(versions: tuple[int, int]) -> None:
    manifest = manifest_with((3,))
    delta = delta_with(manifest, np.random.default_rng(0), 1)
    with pytest.raises(FrameError) as caught:
        encode(delta, manifest, from_version=versions[0], to_version=versions[1])
    assert caught.value.refusal is Refusal.BAD_HEADER


def test_an_entry_in_the_padding_is_not_written() -> None:
    manifest = manifest_with((3,), (3,))
    delta = Delta(np.zeros(2, np.int8), np.array([3], np.int64), np.array([1], np.int32))
    with pytest.raises(FrameError) as caught:
        frame_of(delta, manifest)
    assert caught.value.refusal is Refusal.BAD_INDEX


def entropy_bits(length: int, levels: np.ndarray) -> float:
    """Mask, sign and zeroth-order levels of independent entries."""
    share = len(levels) / length
    mask = -share * math.log2(share) - ((1 - share) * math.log2(1 - share) if share < 1 else 0)
    frequencies = np.bincount(np.abs(levels)) / len(levels)
    used = frequencies[frequencies > 0]
    return length * mask + len(levels) * (1 - float((used * np.log2(used)).sum()))


def gaussian(length: int, density: float, step: float) -> tuple[Manifest, Delta]:
    """Return the largest entries of a Gaussian vector of rms 1, quantised to this step."""
    manifest = manifest_of([("w", (length,), "float32", False)])
    values = np.random.default_rng(7).standard_normal(length)
    index = np.flatnonzero(np.abs(values) >= np.quantile(np.abs(values), 1 - density)).astype(np.int64)
    levels = np.sign(values[index]) * np.maximum(1, np.round(np.abs(values[index]) / step))
    return manifest, Delta(np.zeros(1, np.int8), index, levels.astype(np.int32))


@pytest.mark.parametrize("density", [0.01, 0.03, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("step", [0.5, 1.0, 2.0, 3.0, 100.0])
def test_frames_stay_within_5_percent_of_the_entropy_bound(density: float, step: float) -> None:
    manifest, delta = gaussian(1 << 20, density, step)
    assert 8 * len(frame_of(delta, manifest)) <= 1.05 * entropy_bits(manifest.length, delta.levels)


def test_a_ternary_percent_of_clustered_entries_costs_at_most_0_085_bits_per_parameter() -> None:
    length = 1 << 20
    manifest = manifest_of([("w", (length,), "float32", False)])
    rng = np.random.default_rng(5)
    values = np.abs(rng.standard_normal(length) * np.repeat(np.exp(rng.standard_normal(length // 64)), 64))
    index = np.flatnonzero(values >= np.quantile(values, 0.99)).astype(np.int64)
    levels = rng.choice(np.array([-1, 1], np.int32), len(index))
    frame = frame_of(Delta(np.zeros(1, np.int8), index, levels), manifest)
    assert 8 * len(frame) <= 0.085 * length


def test_a_percent_of_a_small_model_costs_about_its_entropy_and_the_fixed_part_is_small() -> None:
    manifest, delta = gaussian(200_000, 0.01, 100.0)
    assert 8 * len(frame_of(delta, manifest)) <= entropy_bits(manifest.length, delta.levels) + 8 * 250
    nothing = Delta(np.zeros(1, np.int8), delta.index[:0], delta.levels[:0])
    assert len(frame_of(nothing, manifest)) <= 250


@pytest.mark.parametrize(("density", "step"), [(0.5, 1.0), (1.0, 0.01), (0.01, 1.0)])
def test_the_memory_of_decoding_is_that_of_one_segment(density: float, step: float) -> None:
    manifest, delta = gaussian(1 << 22, density, step)
    frame = frame_of(delta, manifest)
    accumulator = np.zeros(manifest.length, np.int32)
    Frame.open(frame, manifest).add_to(accumulator)
    tracemalloc.start()
    Frame.open(frame, manifest).add_to(accumulator)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= (10 if loops.COMPILED else 48) << 20


def test_the_memory_of_encoding_to_a_file_is_that_of_a_few_segments(tmp_path: Path) -> None:
    manifest, delta = gaussian(1 << 24, 0.2, 1.0)
    with open(tmp_path / "frame", "wb+") as file:
        tracemalloc.start()
        write(file, delta, manifest, from_version=0, to_version=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        size = file.seek(0, 2)
        blob = FileBlob(os.dup(file.fileno()), 0, size)
    assert peak < 24 << 20
    assert (tmp_path / "frame").read_bytes() == encode(delta, manifest, from_version=0, to_version=1)
    parts = list(Frame.open(blob, manifest).parts(threads=2))
    assert sum(len(part.places) for part in parts) == len(delta)


@settings(max_examples=40, deadline=None)
@given(shapes, generators, densities, level_lists, st.sampled_from([12, 16, None]))
def test_more_threads_and_more_effort_change_no_entry_and_no_frame_grows(
    tensors: list[tuple[int, ...]],
    rng: np.random.Generator,
    density: float,
    levels: list[int],
    log2_segment: int | None,
) -> None:
    manifest = manifest_with(*tensors)
    delta = delta_with(manifest, rng, density, levels)
    versions: dict[str, Any] = {"from_version": 3, "to_version": 4, "log2_segment": log2_segment}
    one = encode(delta, manifest, **versions)
    assert encode(delta, manifest, **versions, threads=3) == one
    better = encode(delta, manifest, **versions, effort="high")
    assert len(better) <= len(one)
    assert same(decode(better, manifest), delta)


@pytest.mark.parametrize(("entries", "log2"), [(1 << 20, 20), (1 << 17, 22), (1000, 24), (0, 24)])
def test_segments_are_longer_where_entries_are_few(entries: int, log2: int) -> None:
    manifest = manifest_with((1 << 12, 1 << 12))
    index = np.sort(np.random.default_rng(0).choice(1 << 24, entries, replace=False))
    delta = Delta(np.zeros(1, np.int8), index, np.ones(entries, np.int32))
    assert best_segments(delta, manifest)[0] == log2


def test_segments_stay_short_where_entries_crowd() -> None:
    manifest = manifest_with((1 << 12, 1 << 15))
    index = np.arange(1 << 21, (1 << 21) + (3 << 19), dtype=np.int64)
    delta = Delta(np.zeros(1, np.int8), index, np.ones(len(index), np.int32))
    assert best_segments(delta, manifest)[0] == 20
    assert same(decode(encode(delta, manifest, from_version=0, to_version=1), manifest), delta)


def test_threads_code_side_by_side() -> None:
    manifest, delta = gaussian(1 << 16, 0.1, 1.0)
    frame = frame_of(delta, manifest, 12)
    with ThreadPoolExecutor(4) as threads:
        frames = list(threads.map(lambda _: frame_of(delta, manifest, 12), range(16)))
        deltas = list(threads.map(lambda f: decode(f, manifest), frames))
    assert set(frames) == {frame}
    assert all(same(one, delta) for one in deltas)
