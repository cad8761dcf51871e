"""The compiled loops and numpy's: the same results and the same refusals, on planes of entries and on any bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.protocol import loops_numpy
from peermerge.protocol.bits import plane_bytes
from peermerge.protocol.errors import FrameError, Refusal

from .frames import generators

loops_compiled = pytest.importorskip("peermerge.protocol.loops_compiled", reason="built without a C compiler")
_kernel = pytest.importorskip("peermerge.protocol._kernel")

bytes_of = st.one_of(st.binary(max_size=40), st.lists(st.sampled_from([0, 1, 128, 254, 255]), max_size=40).map(bytes))


def outcome(call: Callable[..., Any], *args: object) -> tuple[str, Any]:
    """Return what a call gives, as lists, or the refusal that it raises."""
    copies = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
    try:
        result = call(*copies)
    except FrameError as error:
        return "refused", error.refusal
    changed = [
        copy.tolist() for copy in copies[3:] if isinstance(copy, np.ndarray) and copy.ndim and call.__name__ == "digits"
    ]
    return "gives", (result.tolist() if isinstance(result, np.ndarray) else result, changed)


def agree(name: str, *args: object) -> tuple[str, Any]:
    ours = outcome(getattr(loops_numpy, name), *args)
    assert outcome(getattr(loops_compiled, name), *args) == ours
    return ours


def numbers(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    return np.sort(rng.choice(1000, count, replace=False)).astype(np.int32)


@settings(max_examples=300, deadline=None)
@given(bytes_of, st.integers(0, 7), st.integers(-1, 1), st.booleans(), generators)
def test_bitmaps(data: bytes, unused: int, off: int, first: bool, rng: np.random.Generator) -> None:
    domain = max(0, 8 * len(data) - (unused if data else 0))
    plane = np.frombuffer(data, np.uint8)
    count = max(0, int(np.unpackbits(plane).sum()) + off)
    if domain and count:
        agree("bitmap", plane, domain, count, None if first else numbers(rng, domain))


@settings(max_examples=300, deadline=None)
@given(bytes_of, st.integers(0, 24), st.integers(-1, 1), st.booleans(), generators, st.sampled_from([40, 300, 1 << 20]))
def test_gaps(data: bytes, shift: int, off: int, first: bool, rng: np.random.Generator, domain: int) -> None:
    plane = np.frombuffer(data, np.uint8)
    count = int((plane != 255).sum()) + off
    if count > 0 and (first or domain <= 300):
        low = rng.integers(0, 256, plane_bytes(shift * count)).astype(np.uint8)
        if shift * count % 8 and rng.random() < 0.8:
            low[-1] &= (1 << shift * count % 8) - 1
        agree("gaps", plane, low, shift, count, domain, None if first else numbers(rng, domain))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(0, 30), st.booleans(), st.integers(-1, 1), generators)
def test_digits(width: int, count: int, every: bool, off: int, rng: np.random.Generator) -> None:
    plane = rng.choice([0, 1, 14, 15, 254, 255], plane_bytes(count * width)).astype(np.uint8)
    halves = np.stack([plane & 15, plane >> 4], axis=1).ravel()[:count] if width == 4 else plane
    exceptions = int((halves == (1 << width) - 1).sum()) + off
    if exceptions >= 0:
        levels = np.ones(count if every else 1000, np.int32)
        agree("digits", plane, width, None if every else numbers(rng, count), 3, levels, exceptions)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(0, 31), st.integers(0, 30), st.integers(1, 1 << 30), generators)
def test_sums_signs_and_hashes(count: int, older: int, newer: int, most: int, rng: np.random.Generator) -> None:
    places, state = numbers(rng, count), rng.integers(-most + 1, most, 1000).astype(np.int32)
    levels = rng.integers(-most + 1, most, count).astype(np.int32)
    agree("hash_sums", int(rng.integers(0, 1 << 40)), places, levels)
    _, (fit, _) = agree("sums_fit", state, places, levels, older, newer)
    if fit and not older:
        sums = [state.copy(), state.copy()]
        loops_numpy.add(sums[0], places, levels, newer)
        loops_compiled.add(sums[1], places, levels, newer)
        assert np.array_equal(sums[0], sums[1])
    agree("carry", np.abs(levels), np.arange(count, dtype=np.int32), rng.integers(0, 256, count).astype(np.uint8), 24)
    signs = rng.integers(0, 256, plane_bytes(count)).astype(np.uint8)
    if count % 8:
        signs[-1] &= (1 << count % 8) - 1
    negated = [np.abs(levels), np.abs(levels)]
    loops_numpy.negate(negated[0], signs)
    loops_compiled.negate(negated[1], signs)
    assert np.array_equal(negated[0], negated[1])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 24), st.sampled_from([1, 20, 300, 1 << 30]), generators)
def test_what_an_encoder_packs(domain: int, density: float, shift: int, most: int, rng: np.random.Generator) -> None:
    places = np.union1d(np.flatnonzero(rng.random(domain) < density), [domain - 1]).astype(np.int32)
    values = (rng.integers(1, most + 1, len(places)) * rng.choice([-1, 1], len(places))).astype(np.int32)
    levels = np.abs(values)
    exceptions = int((levels >= 1 + 15).sum()), int((levels >= 1 + 255).sum())
    for name, args in (
        ("pack_places", (places, domain)),
        ("pack_gaps", (places * 50, shift)),
        ("split_signs", (values,)),
        ("above", (levels, 3)),
        ("pack_digits", (levels, 1, 4, exceptions[0])),
        ("pack_digits", (levels, 1, 8, exceptions[1])),
    ):
        ours, theirs = getattr(loops_numpy, name)(*args), getattr(loops_compiled, name)(*args)
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        assert all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in pairs), name


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("bitmap", (np.zeros(1, np.uint8), 9, 1, np.zeros(1, np.int32), True)),
        ("bitmap", (np.zeros(1, np.uint8), 8, 9, np.zeros(8, np.int32), True)),
        ("bitmap", (np.zeros(1, np.uint8), 8, 1, np.zeros(1, np.int32), False)),
        ("bitmap", (np.zeros(1, np.uint8), -8, 0, np.zeros(1, np.int32), True)),
        ("gaps", (np.zeros(1, np.uint8), np.zeros(0, np.uint8), 1, 1, 9, np.zeros(1, np.int32), True)),
        ("gaps", (np.zeros(1, np.uint8), np.zeros(9, np.uint8), 25, 1, 9, np.zeros(1, np.int32), True)),
        (
            "digits",
            (np.zeros(1, np.uint8), 8, np.zeros(2, np.int32), False, 1, np.zeros(2, np.int32), np.zeros(0, np.int32)),
        ),
        (
            "digits",
            (np.zeros(1, np.uint8), 5, np.zeros(1, np.int32), False, 1, np.zeros(2, np.int32), np.zeros(0, np.int32)),
        ),
        ("negate", (np.zeros(9, np.int32), np.zeros(1, np.uint8))),
        ("add", (np.zeros(9, np.int32), np.zeros(2, np.int32), np.zeros(1, np.int32), 0)),
        ("add", (np.zeros(9, np.int32), np.zeros(2, np.int32), np.zeros(2, np.int32), 31)),
        ("sums_fit", (np.zeros(9, np.int32), np.zeros(2, np.int32), np.zeros(2, np.int32), 32, 0)),
        ("carry", (np.zeros(2, np.int32), np.zeros(2, np.int32), np.zeros(1, np.uint8), 0)),
        ("set_bits", (np.zeros(1, np.int32), np.zeros(1, np.uint8), 9)),
        ("gap_bytes", (np.zeros(1, np.int32), 9, np.zeros(1, np.uint8), np.zeros(1, np.uint8))),
        ("split_signs", (np.zeros(9, np.int32), np.zeros(9, np.int32), np.zeros(1, np.uint8))),
        ("above", (np.zeros(2, np.int32), 1, np.zeros(1, np.int32), np.zeros(2, np.int32))),
        ("pack_digits", (np.ones(3, np.int32), 1, 4, np.zeros(1, np.uint8), np.zeros(0, np.uint32))),
        ("hash", (0, np.zeros(2, np.int32), np.zeros(1, np.int32))),
    ],
)
def test_a_buffer_that_is_too_short_is_our_mistake_and_touches_no_memory(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="shorter than the call needs"):
        getattr(_kernel, name)(*args)


@pytest.mark.parametrize("place", [-1, 9])
def test_no_place_outside_the_state_is_touched(place: int) -> None:
    places, one = np.array([place], np.int32), np.ones(1, np.int32)
    assert not _kernel.add(np.zeros(9, np.int32), places, one, 0)
    assert not _kernel.sums_fit(np.zeros(9, np.int32), places, one, 0, 0)
    assert not _kernel.lift(places, 2, np.zeros(9, np.int32))
    assert not _kernel.carry(np.zeros(9, np.int32), places, np.zeros(1, np.uint8), 0)
    assert not _kernel.set_bits(places, np.zeros(2, np.uint8), 9)
    assert _kernel.gap_bytes(np.array([5, 5], np.int32), 0, np.zeros(99, np.uint8), np.zeros(0, np.uint8)) == -1
    assert _kernel.gap_bytes(np.array([600], np.int32), 0, np.zeros(2, np.uint8), np.zeros(0, np.uint8)) == -1
    assert _kernel.pack_digits(np.array([99], np.int32), 1, 4, np.zeros(1, np.uint8), np.zeros(0, np.uint32)) == -1
    assert not _kernel.digits(np.zeros(1, np.uint8), 8, places, False, 1, np.zeros(9, np.int32), np.zeros(0, np.int32))


def test_refusals_have_the_names_of_the_protocol() -> None:
    with pytest.raises(FrameError) as caught:
        loops_compiled.bitmap(np.zeros(1, np.uint8), 8, 1, None)
    assert caught.value.refusal is Refusal.BAD_INDEX


def test_an_encoder_that_is_given_nonsense_says_so() -> None:
    calls: list[Callable[[], object]] = [
        lambda: loops_compiled.pack_places(np.array([5, 300], np.int32), 16),
        lambda: loops_compiled.pack_gaps(np.array([5, 3, 9], np.int32), 0),
        lambda: loops_compiled.pack_digits(np.array([99], np.int32), 1, 4, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="ascend"):
            call()
