from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.selection import approximate_cut, cut, draw, length
from peermerge.node.vectors import BLOCK, Floats, HostVector, Index

from .worlds import generators

LONG = 3 * BLOCK + 17
DENORMAL = np.float32(1e-45)

KINDS: dict[str, Any] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_t(3, n) * 1e20,
    "ties": lambda rng, n: np.round(rng.standard_normal(n), 1),
    "ternary": lambda rng, n: rng.integers(-1, 2, n),
    "constant": lambda rng, n: np.full(n, -0.5),
    "zeros": lambda rng, n: np.zeros(n),
    "mostly zeros": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.01),
    "denormal": lambda rng, n: rng.integers(-5, 6, n) * DENORMAL,
    "extreme": lambda rng, n: np.float32(2) ** rng.integers(-149, 128, n),
    "ascending": lambda rng, n: np.arange(n),
    "two scales": lambda rng, n: np.where(np.arange(n) < n // 2, 1e-6, 1.0) * rng.standard_normal(n),
}


@dataclass(frozen=True, slots=True)
class Blinded(HostVector):
    """Samples see nothing but zeros."""

    def take(self, where: slice | Index) -> Floats:
        """Return zeros."""
        return np.zeros_like(self.x[where])


def naive(x: Floats, runs: list[slice], k: int) -> npt.NDArray[np.int64]:
    """Sort everything: by magnitude, then by place."""
    places = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    magnitude = np.abs(x[places])
    order = np.argsort(-magnitude, kind="stable")[:k]
    return np.sort(places[order[magnitude[order] > 0]])


def selected(vector: HostVector, runs: list[slice], k: int) -> npt.NDArray[np.int64]:
    return vector.indexes(runs, cut(vector, runs, k))


def made(kind: str, rng: np.random.Generator, size: int) -> Floats:
    return np.asarray(KINDS[kind](rng, size), np.float32)


@settings(max_examples=60, deadline=None)
@given(generators, st.sampled_from(list(KINDS)), st.integers(1, 300), st.floats(0, 1))
def test_the_k_largest_of_a_short_vector_are_those_of_a_stable_sort(
    rng: np.random.Generator, kind: str, size: int, share: float
) -> None:
    x = made(kind, rng, size)
    k = max(1, round(share * size))
    assert np.array_equal(selected(HostVector(x), [slice(0, size)], k), naive(x, [slice(0, size)], k))


@settings(max_examples=60, deadline=None)
@given(generators, st.sampled_from(list(KINDS)), st.sampled_from([1, 3, 200, 5_000, LONG // 10, LONG // 2, LONG]))
def test_the_k_largest_of_many_blocks_are_those_of_a_stable_sort(rng: np.random.Generator, kind: str, k: int) -> None:
    x = made(kind, rng, LONG)
    assert np.array_equal(selected(HostVector(x), [slice(0, LONG)], k), naive(x, [slice(0, LONG)], k))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5_000, LONG // 2, LONG])
def test_a_sample_that_misleads_costs_time_and_nothing_else(kind: str, k: int) -> None:
    x = made(kind, np.random.default_rng(1), LONG)
    assert np.array_equal(selected(Blinded(x), [slice(0, LONG)], k), naive(x, [slice(0, LONG)], k))


@settings(max_examples=30, deadline=None)
@given(
    generators, st.sampled_from(list(KINDS)), st.floats(0.001, 1), st.integers(1, BLOCK), st.integers(1, BLOCK * 3 // 2)
)
def test_entries_outside_the_runs_do_not_compete(
    rng: np.random.Generator, kind: str, share: float, first: int, second: int
) -> None:
    runs = [slice(10, 10 + first), slice(BLOCK + 100, BLOCK + 100 + second)]
    x = made(kind, rng, LONG)
    k = max(1, round(share * length(runs)))
    assert np.array_equal(selected(HostVector(x), runs, k), naive(x, runs, k))


def test_more_than_there_is_selects_everything_but_zeros() -> None:
    x = np.array([1, 2, 1, 0, 1, -2, 1], np.float32)
    assert selected(HostVector(x), [slice(0, 7)], 4).tolist() == [0, 1, 2, 5]
    assert selected(HostVector(x), [slice(0, 7)], 100).tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("kind", ["normal", "heavy", "two scales"])
@pytest.mark.parametrize("density", [0.3, 0.7, 1.0])
def test_an_approximate_cut_keeps_about_as_many(kind: str, density: float) -> None:
    x = made(kind, np.random.default_rng(2), 1 << 20)
    vector, runs = HostVector(x), [slice(0, 1 << 20)]
    k = round(density * len(x))
    kept = vector.indexes(runs, approximate_cut(vector, runs, k))
    assert len(kept) == pytest.approx(k, rel=0.05)
    assert np.abs(x[kept]).min() > np.delete(np.abs(x), kept).max(initial=0)


def test_an_approximate_cut_of_few_is_exact_and_never_keeps_zeros() -> None:
    rng = np.random.default_rng(3)
    runs = [slice(0, 1 << 20)]
    normal, sparse = (HostVector(made(kind, rng, 1 << 20)) for kind in ("normal", "mostly zeros"))
    assert approximate_cut(normal, runs, 250_000) == cut(normal, runs, 250_000)
    kept = sparse.indexes(runs, approximate_cut(sparse, runs, 500_000))
    assert np.array_equal(kept, np.flatnonzero(sparse.x))


@settings(max_examples=30, deadline=None)
@given(generators, st.floats(0.0001, 1), st.integers(1, 200), st.integers(1, 2 * BLOCK))
def test_a_draw_takes_its_share_of_the_places_without_repetition(
    rng: np.random.Generator, density: float, first: int, second: int
) -> None:
    places = [slice(64, 64 + first), slice(1000, 1000 + second)]
    index = draw(places, density, rng)
    assert len(index) == max(1, round(density * (first + second)))
    assert (np.diff(index) > 0).all()
    assert all(any(place.start <= i < place.stop for place in places) for i in index[[0, -1]])
    assert not ((index >= 64 + first) & (index < 1000)).any()


def test_a_draw_is_uniform() -> None:
    rng = np.random.default_rng(4)
    hits = np.zeros(2 * BLOCK)
    for _ in range(50):
        hits[draw([slice(0, 2 * BLOCK)], 0.1, rng)] += 1
    assert hits[:BLOCK].sum() == pytest.approx(hits[BLOCK:].sum(), rel=0.001)
    assert hits.var() == pytest.approx(50 * 0.1 * 0.9, rel=0.02)
