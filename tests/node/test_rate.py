from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.rate import LEVEL_BITS, Grid, Histogram, Point, bin_edges, curve, for_bits, for_error, grids
from peermerge.node.vectors import BINS, Floats, HostVector
from peermerge.protocol.limits import MIN_EXPONENT

N = 1 << 18
GRIDS = [Grid(exponent, multiple) for exponent in range(-30, 5) for multiple in (1, 3)]
DRAWS: dict[str, Callable[[np.random.Generator, int], npt.NDArray[np.float64]]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.standard_t(3, n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "ties": lambda rng, n: np.round(rng.standard_normal(n), 1),
    "mostly zeros": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.05),
}


@cache
def drawn(kind: str) -> tuple[Floats, Histogram]:
    x = (DRAWS[kind](np.random.default_rng(1), N) * 1.3e-3).astype(np.float32)
    return x, Histogram.of(HostVector(x).histogram([slice(0, N)]), N)


def entropy(symbols: npt.NDArray[np.float64]) -> float:
    _, counts = np.unique(symbols, return_counts=True)
    share = counts / counts.sum()
    return -float((share * np.log2(share)).sum())


def measured(x: Floats, point: Point) -> tuple[float, float]:
    """Return bits per parameter and relative error of sending the largest on a grid, entry by entry."""
    step = point.grid.step
    magnitude = np.sort(np.abs(x.astype(np.float64)))[::-1]
    sent = magnitude[: round(point.count)]
    levels = np.floor(sent / step + 0.5)
    mask = np.arange(len(x)) < len(sent)
    left = np.square(magnitude[len(sent) :]).sum() + np.square(sent - levels * step).sum()
    bits = entropy(mask.astype(np.float64)) + len(sent) / len(x) * (1 + entropy(levels) if len(sent) else 0)
    return bits, float(left / np.square(magnitude).sum())


@pytest.mark.parametrize("kind", ["normal", "heavy", "laplace"])
@pytest.mark.parametrize(("exponent", "within"), [(-6, 3e-3), (-8, 3e-3), (-10, 3e-3), (-12, 3e-3), (-15, 0.03)])
def test_a_curve_foretells_bits_and_error_of_every_count(kind: str, exponent: int, within: float) -> None:
    x, histogram = drawn(kind)
    offered = curve(histogram, Grid(exponent))
    for share in (0.003, 0.05, 0.3, 0.6, 1.0):
        point = offered.at_count(share * N)
        bits, error = measured(x, point)
        assert point.bits == pytest.approx(bits, rel=within)
        assert point.error == pytest.approx(error, rel=within)


@pytest.mark.parametrize("kind", DRAWS)
def test_a_curve_begins_at_nothing_and_ends_where_half_a_step_is_not_reached(kind: str) -> None:
    x, histogram = drawn(kind)
    offered = curve(histogram, Grid(-9))
    assert (offered.counts[0], offered.bits[0], offered.error[0]) == (0, 0, 1)
    assert offered.counts[-1] == np.count_nonzero(np.abs(x) >= 2.0**-10)
    assert (np.diff(offered.error) <= 1e-12).all()


@pytest.mark.parametrize("kind", ["normal", "heavy", "laplace", "mostly zeros"])
@pytest.mark.parametrize("bits", [0.02, 0.1, 0.25])
def test_bits_are_spent_where_they_leave_least(kind: str, bits: float) -> None:
    x, histogram = drawn(kind)
    found = for_bits(histogram, bits, grids(histogram, MIN_EXPONENT))
    assert measured(x, found)[0] == pytest.approx(bits, rel=2e-3)
    others = [curve(histogram, grid).at_bits(bits) for grid in GRIDS]
    assert found.error == min(point.error for point in others if point.bits == pytest.approx(bits))


@pytest.mark.parametrize("kind", ["normal", "heavy", "laplace", "mostly zeros"])
@pytest.mark.parametrize("error", [0.9, 0.5, 0.1, 0.01, 0.001])
def test_an_error_is_reached_at_the_least_cost(kind: str, error: float) -> None:
    x, histogram = drawn(kind)
    found = for_error(histogram, error, grids(histogram, MIN_EXPONENT))
    assert measured(x, found)[1] == pytest.approx(error, rel=2e-3)
    others = [curve(histogram, grid).at_error(error) for grid in GRIDS]
    assert found.bits == min(point.bits for point in others if point.error == pytest.approx(error))


@pytest.mark.parametrize("kind", DRAWS)
def test_what_no_allowed_grid_can_meet_gets_everything_on_the_finest(kind: str) -> None:
    x, histogram = drawn(kind)
    for point in (for_bits(histogram, 30, grids(histogram, -11)), for_error(histogram, 1e-9, grids(histogram, -11))):
        assert point.grid == Grid(-11)
        assert point.count == np.count_nonzero(np.abs(x) >= 2.0**-12)


def test_a_grid_that_is_given_is_kept() -> None:
    x, histogram = drawn("normal")
    for exponent in (-10, -11, -12):
        grid = Grid(exponent)
        point = for_bits(histogram, 1.0, [grid])
        assert point.grid == grid
        assert measured(x, point)[0] == pytest.approx(1.0, rel=2e-3)
        assert for_error(histogram, 0.2, [grid]).grid == grid


def test_no_grid_is_so_fine_that_levels_overflow() -> None:
    _, histogram = drawn("normal")
    finest = for_error(histogram, 1e-30, grids(histogram, MIN_EXPONENT)).grid.exponent
    largest = int(np.floor(np.log2(np.abs(drawn("normal")[0]).max())))
    assert finest == largest - LEVEL_BITS


def test_entries_below_every_grid_and_zeros_count_as_places_only() -> None:
    x = np.array([0, 1e-45, 1e-39, 0, 1, -1, 0, 0], np.float32)
    point = curve(Histogram.of(HostVector(x).histogram([slice(0, 8)]), 8), Grid(0)).at_count(8)
    assert point.count == 2
    assert point.bits == pytest.approx(entropy(np.array([0.0, 0, 0, 1])) + 0.25)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, BINS - 1))
def test_bins_begin_where_their_patterns_do(number: int) -> None:
    first, last = np.array([number << 16, (number << 16) + 0xFFFF], np.uint32).view(np.float32).astype(np.float64)
    edges = bin_edges()
    assert edges[number] == first
    assert edges[number] <= last < edges[number + 1]
