"""Statistics as bytes: there and back, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.entropy import Buffer
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.limits import CHUNK_BYTES, MAX_ATTACHMENT_BYTES
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.statistics import KINDS, Statistics, Values, count, max_statistics_bytes, norm, pack

MANIFEST = manifest_of(
    [
        ("layer.weight", (2, 3), "float32", False),
        ("layer.bias", (2,), "float32", True),
        ("empty", (0, 3), "float32", False),
        ("scale", (), "float32", True),
        ("filters", (2, 3, 2), "float32", False),
    ]
)
HEAD = 12 + len(MANIFEST.tensors)
WEIGHT = {"second-moment": 5, "fisher": 5, "gram": 6}
kinds = pytest.mark.parametrize("kind", KINDS)


def ramp(size: int) -> Values:
    return np.arange(1, size + 1, dtype=np.float32)


def packed(kind: str) -> bytes:
    return pack(kind, {0: ramp(WEIGHT[kind])}, MANIFEST)


def refusal_of(data: Buffer, kind: str) -> Refusal | None:
    try:
        Statistics.open(data, kind, MANIFEST)
    except FrameError as error:
        return error.refusal
    return None


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@kinds
def test_what_is_packed_is_read(kind: str) -> None:
    measured = {t: ramp(count(kind, spec)) for t, spec in enumerate(MANIFEST.tensors) if count(kind, spec)}
    opened = Statistics.open(pack(kind, measured, MANIFEST), kind, MANIFEST)
    assert list(opened) == list(measured) == ([0] if kind == "gram" else [0, 4])
    for t, values in measured.items():
        assert np.array_equal(opened.values(t), values)


def test_row_sums_come_before_column_sums() -> None:
    rows, columns = Statistics.open(packed("second-moment"), "second-moment", MANIFEST).sums(0)
    assert rows.tolist() == [1, 2]
    assert columns.tolist() == [3, 4, 5]


def test_the_layout_is_that_of_the_page() -> None:
    table = bytes([1, 0, 0, 0, 0])
    expected = b"PMRS" + bytes([1, 3, 0, 0]) + struct.pack("<I", 5) + table + struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert packed("gram") == expected


@kinds
def test_tensors_may_be_left_out(kind: str) -> None:
    opened = Statistics.open(pack(kind, {}, MANIFEST), kind, MANIFEST)
    assert list(opened) == []
    assert 0 not in opened


def test_only_what_can_be_measured_can_be_packed() -> None:
    for t, size in ((0, 4), (1, 2), (2, 3), (3, 1)):
        with pytest.raises(ValueError, match=MANIFEST.tensors[t].name):
            pack("second-moment", {t: ramp(size)}, MANIFEST)


@kinds
def test_nothing_is_larger_than_the_limit_says(kind: str) -> None:
    measured = {t: ramp(count(kind, spec)) for t, spec in enumerate(MANIFEST.tensors) if count(kind, spec)}
    assert len(pack(kind, measured, MANIFEST)) == max_statistics_bytes(kind, MANIFEST)
    assert refusal_of(bytes(max_statistics_bytes(kind, MANIFEST) + 1), kind) is Refusal.OVERSIZE


def test_no_limit_exceeds_that_of_attachments() -> None:
    wide = manifest_of([("wide", (1, 1 << 20), "float32", False)])
    assert max_statistics_bytes("gram", wide) == MAX_ATTACHMENT_BYTES
    assert max_statistics_bytes("masks", wide) == 0


@kinds
@pytest.mark.parametrize(
    ("at", "new", "refusal"),
    [
        (0, b"PMRF", Refusal.BAD_MAGIC),
        (4, b"\x02", Refusal.UNSUPPORTED_VERSION),
        (5, b"\x04", Refusal.BAD_HEADER),
        (6, b"\x01", Refusal.UNSUPPORTED_VERSION),
        (8, b"\x04", Refusal.MANIFEST_MISMATCH),
        (12, b"\x02", Refusal.BAD_HEADER),
        (12, b"\x00", Refusal.BAD_HEADER),
        (13, b"\x01", Refusal.BAD_HEADER),
        (HEAD, struct.pack("<f", np.nan), Refusal.NON_FINITE),
        (HEAD + 8, struct.pack("<f", -np.inf), Refusal.NON_FINITE),
        (HEAD + 16, struct.pack("<f", 1e30), Refusal.OVERFLOW),
        (HEAD, struct.pack("<f", -1), Refusal.BAD_HEADER),
    ],
)
def test_damage_is_refused_by_name(kind: str, at: int, new: bytes, refusal: Refusal) -> None:
    assert refusal_of(changed(packed(kind), at, new), kind) is refusal


@kinds
def test_every_shorter_and_every_longer_attachment_is_refused(kind: str) -> None:
    data = packed(kind)
    assert {refusal_of(data[:end], kind) for end in range(len(data))} == {Refusal.TRUNCATED}
    assert refusal_of(data + b"\0", kind) is (Refusal.OVERSIZE if kind == "gram" else Refusal.BAD_HEADER)


@pytest.mark.parametrize("place", range(6))
def test_products_may_be_negative_but_for_the_diagonal(place: int) -> None:
    data = changed(packed("gram"), HEAD + 4 * place, struct.pack("<f", -1))
    assert refusal_of(data, "gram") is (Refusal.BAD_HEADER if place in (0, 2, 5) else None)


def test_one_kind_is_no_other() -> None:
    assert refusal_of(packed("fisher"), "second-moment") is Refusal.BAD_HEADER


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(kind: str, data: bytes) -> None:
    assert isinstance(refusal_of(data, kind), Refusal)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 36), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_leaves_sound_values(kind: str, at: int, byte: int) -> None:
    data = changed(packed(kind), at, bytes([byte]))[: len(packed(kind))]
    if refusal_of(data, kind) is None:
        values = Statistics.open(data, kind, MANIFEST).values(0)
        assert np.isfinite(values).all()
        assert np.isfinite(norm(Statistics.open(data, "fisher", MANIFEST))) if kind == "fisher" else True


def test_a_large_tensor_is_checked_by_chunks() -> None:
    large = manifest_of([("large", (2, CHUNK_BYTES), "float32", False)])
    reads: list[int] = []

    class Watched(MemoryBlob):
        def read(self, offset: int, size: int) -> Buffer:
            reads.append(size)
            return super().read(offset, size)

    values = np.ones(2 + CHUNK_BYTES, np.float32)
    values[-1] = -1
    with pytest.raises(FrameError, match="negative"):
        Statistics.open(Watched(pack("fisher", {0: values}, large)), "fisher", large)
    assert max(reads) <= CHUNK_BYTES


def test_the_norm_is_that_of_what_the_sums_stand_for() -> None:
    rows, columns = np.array([1, 3], np.float32), np.array([1, 1, 2], np.float32)
    opened = Statistics.open(pack("fisher", {0: np.concatenate([rows, columns])}, MANIFEST), "fisher", MANIFEST)
    full = np.outer(rows, columns) / 4
    assert norm(opened) == pytest.approx(float(np.sqrt((full**2).mean())))


def test_the_norm_of_nothing_is_0() -> None:
    for measured in ({}, {0: np.zeros(5, np.float32)}):
        assert norm(Statistics.open(pack("fisher", measured, MANIFEST), "fisher", MANIFEST)) == 0
