from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node import vectors_torch
from peermerge.node.config import PublishConfig
from peermerge.node.selection import approximate_cut, cut
from peermerge.node.sparsify import compress
from peermerge.node.vectors import BEYOND, BINS, BLOCK, Cut, Floats, HostVector, blocks
from peermerge.node.vectors_torch import TensorVector
from peermerge.protocol.errors import DivergedError
from peermerge.protocol.manifest import manifest_of

from .worlds import free_floors, generators

SIZE = 2 * BLOCK + 33
RUNS = [slice(3, 100), slice(128, BLOCK + 5), slice(BLOCK + 70, SIZE)]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
MODEL = manifest_of(
    [
        ("a", (300, 200), "float32", False),
        ("bias", (200,), "float32", True),
        ("b", (3, 5), "float32", False),
        ("c", (500, 300), "float32", False),
    ]
)


def numbers(rng: np.random.Generator, kind: str, size: int = SIZE) -> Floats:
    draws: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "heavy": lambda: rng.standard_t(3, size),
        "ties": lambda: np.round(rng.standard_normal(size), 1),
        "denormal": lambda: rng.integers(-9, 10, size) * 1e-45,
        "extreme": lambda: np.ldexp(rng.choice([-1.0, 1.0], size), rng.integers(-149, 128, size)),
    }
    return np.asarray(draws[kind](), np.float32)


kinds = st.sampled_from(["heavy", "ties", "denormal", "extreme"])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(vectors_torch, "CHUNK", 1000)
    return str(request.param)


def both(x: Floats, device: str) -> tuple[HostVector, TensorVector]:
    return HostVector(x), TensorVector(torch.from_numpy(x).to(device))


def test_blocks_cover_runs_once_and_in_order() -> None:
    found = [
        i for block in blocks([slice(2, 9), slice(9, 10), slice(12, 12)], 3) for i in range(block.start, block.stop)
    ]
    assert found == list(range(2, 10))


@pytest.mark.parametrize("kind", ["heavy", "ties", "denormal", "extreme"])
def test_every_pass_gives_the_same_on_a_device(kind: str, device: str) -> None:
    x = numbers(np.random.default_rng(1), kind)
    host, other = both(x, device)
    middle = cut(host, RUNS, 1000).below
    for low, high in [(1, BEYOND), (middle, middle + 1000), (middle, BEYOND), (1, 1)]:
        above, inside = host.between(RUNS, low, high, SIZE)
        theirs, also = other.between(RUNS, low, high, SIZE)
        assert inside is not None
        assert also is not None
        assert (above, inside.tolist()) == (theirs, also.tolist())
    assert np.array_equal(host.histogram(RUNS), other.histogram(RUNS))
    assert np.array_equal(host.digits(RUNS, middle >> 16), other.digits(RUNS, middle >> 16))
    for one in [Cut(0), Cut(middle), Cut(middle, 1), Cut(middle + 1, 300)]:
        assert np.array_equal(host.indexes(RUNS, one), other.indexes(RUNS, one))
    assert np.array_equal(host.take(slice(5, 50)), other.take(slice(5, 50)))
    some = np.array([7, 3, SIZE - 1])
    assert np.array_equal(host.take(some), other.take(some))
    assert host.squares(slice(5, SIZE)) == pytest.approx(other.squares(slice(5, SIZE)), rel=1e-12)


@pytest.mark.parametrize("density", [0.001, 0.3])
@pytest.mark.parametrize("kind", ["heavy", "ties", "denormal", "extreme"])
def test_the_same_entries_are_selected_on_a_device(kind: str, density: float, device: str) -> None:
    host, other = both(numbers(np.random.default_rng(2), kind), device)
    k = round(density * SIZE)
    assert cut(host, RUNS, k) == cut(other, RUNS, k)
    assert approximate_cut(host, RUNS, k) == approximate_cut(other, RUNS, k)


BUDGETS: list[dict[str, Any]] = [
    {"density": 0.05},
    {"density": 0.05, "selection": "tensor"},
    {"density": 0.05, "sparsifier": "random"},
    {"bits": 0.5},
    {"relative_error": 0.3, "selection": "tensor"},
    {"lossless": True},
]


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_same_is_compressed_on_a_device(budget: dict[str, Any], device: str) -> None:
    x = np.zeros(MODEL.length, np.float32)
    for _, place in MODEL.slices():
        x[place] = numbers(np.random.default_rng(3), "heavy", place.stop - place.start)
    host, other = (
        compress(vector, MODEL, free_floors(MODEL), PublishConfig(**budget), np.random.default_rng(4))
        for vector in both(x, device)
    )
    for field in ("exponents", "index", "levels"):
        assert np.array_equal(getattr(host.delta, field), getattr(other.delta, field))
    assert (host.omega, host.residue) == pytest.approx((other.omega, other.residue), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found_on_a_device(value: float, device: str) -> None:
    x = np.zeros(MODEL.length, np.float32)
    x[-100] = value
    with pytest.raises(DivergedError):
        compress(both(x, device)[1], MODEL, free_floors(MODEL), PublishConfig(), np.random.default_rng())


@settings(max_examples=30, deadline=None)
@given(generators, kinds)
def test_a_histogram_and_its_digits_count_every_entry_where_it_belongs(rng: np.random.Generator, kind: str) -> None:
    x = numbers(rng, kind)
    inside = np.concatenate([x[run] for run in RUNS])
    counts = HostVector(x).histogram(RUNS)
    upper = int(rng.choice(np.flatnonzero(counts)))
    edges = np.array([upper << 16, (upper + 1) << 16], np.uint32).view(np.float32)
    assert len(counts) == BINS
    assert counts[upper] == np.count_nonzero((np.abs(inside) >= edges[0]) & (np.abs(inside) < edges[1]))
    digits = HostVector(x).digits(RUNS, upper)
    assert digits.sum() == counts[upper]
    lower = int(rng.choice(np.flatnonzero(digits)))
    value = np.array([(upper << 16) + lower], np.uint32).view(np.float32)
    assert digits[lower] == np.count_nonzero(np.abs(inside) == value)


def test_too_many_between_the_bounds_are_not_collected() -> None:
    vector = HostVector(np.ones(SIZE, np.float32))
    assert vector.between([slice(0, SIZE)], 1, BEYOND, SIZE - 1)[1] is None
    found = vector.between([slice(0, SIZE)], 1, BEYOND, SIZE)[1]
    assert found is not None
    assert len(found) == SIZE
