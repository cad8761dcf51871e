"""Manifests, deltas and damaged frames for the tests of the codec."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from peermerge.protocol.codec import Frame
from peermerge.protocol.delta import Delta
from peermerge.protocol.entropy import Buffer
from peermerge.protocol.layout import CHECKSUM, FIELDS, HEADER_BYTES
from peermerge.protocol.limits import MAX_LEVEL
from peermerge.protocol.manifest import Manifest, manifest_of
from peermerge.protocol.segments import RECORD


def manifest_with(*shapes: tuple[int, ...]) -> Manifest:
    """Return a manifest of float32 tensors of these shapes."""
    return manifest_of([(f"t{number}", shape, "float32", len(shape) < 2) for number, shape in enumerate(shapes)])


def delta_with(
    manifest: Manifest, rng: np.random.Generator, density: float, levels: npt.ArrayLike = (1,), runs: int = 1
) -> Delta:
    """Return a delta that takes each run of entries with this probability, with levels drawn from the list."""
    places = np.concatenate([[], *(np.arange(s.start, s.stop) for _, s in manifest.slices())]).astype(np.int64)
    chosen = np.repeat(rng.random(-(-len(places) // runs)) < density, runs)[: len(places)]
    index = places[chosen]
    values = rng.choice(np.asarray(levels), len(index)) * rng.choice([-1, 1], len(index))
    exponents = rng.integers(-126, 98, len(manifest.tensors)).astype(np.int8)
    return Delta(exponents, index, values.astype(np.int32))


def decode(frame: Buffer, manifest: Manifest) -> Delta:
    """Return the whole delta of a frame."""
    opened = Frame.open(frame, manifest)
    parts = list(opened.parts())
    index = [part.places.astype(np.int64) + part.start for part in parts]
    levels = [part.levels for part in parts]
    return Delta(
        opened.exponents.copy(),
        np.concatenate([np.empty(0, np.int64), *index]),
        np.concatenate([np.empty(0, np.int32), *levels]),
    )


def same(one: Delta, other: Delta) -> bool:
    """Say whether two deltas agree in values and types."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("exponents", "index", "levels")]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def with_checksum(frame: bytes) -> bytes:
    """Return the frame with the checksum of its tables made right, as a forger would."""
    damaged = bytearray(frame)
    _, _, _, _, _, _, _, _, segments, tensors, *_ = FIELDS.unpack_from(damaged)
    end = HEADER_BYTES + tensors + RECORD.itemsize * segments
    checksum = zlib.crc32(bytes(damaged[HEADER_BYTES:end]), zlib.crc32(bytes(damaged[: FIELDS.size])))
    CHECKSUM.pack_into(damaged, FIELDS.size, checksum)
    return bytes(damaged)


def with_record(frame: bytes, manifest: Manifest, **fields: object) -> bytes:
    """Return the frame with fields of its first segment's record replaced and the checksum made right."""
    damaged = bytearray(frame)
    start = HEADER_BYTES + len(manifest.tensors)
    record = np.frombuffer(damaged, RECORD, 1, start)
    for name, value in fields.items():
        record[name] = value
    return with_checksum(bytes(damaged))


shapes = st.lists(
    st.one_of(st.just(()), st.tuples(st.integers(0, 3)), st.tuples(st.integers(0, 90), st.integers(1, 90))), max_size=6
)
level_lists = st.one_of(
    st.just([1]),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.lists(st.integers(1, 400), min_size=1, max_size=50),
    st.lists(st.integers(1, MAX_LEVEL), min_size=1, max_size=50),
)
densities = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1), st.floats(0, 0.03))
generators = st.integers(0, 1 << 32).map(np.random.default_rng)
