from __future__ import annotations

import numpy as np
import pytest

from peermerge.node.allocation import Offers, each_bits, each_error, offers, share_bits, share_error
from peermerge.node.config import PublishConfig
from peermerge.node.rate import Curve, Histogram, Point, grids
from peermerge.node.sparsify import compress
from peermerge.node.vectors import Floats, HostVector
from peermerge.protocol.codec import Frame, encode
from peermerge.protocol.limits import MIN_EXPONENT
from peermerge.protocol.manifest import Manifest, manifest_of

SCALES = (1.0, 0.3, 0.02, 5.0)


def never(_curve: Curve) -> bool:
    return False


def tensors(sizes: tuple[int, ...] = (1 << 16, 1 << 15, 1 << 14, 1 << 12)) -> list[Offers]:
    rng = np.random.default_rng(0)
    drawn = [(s * rng.standard_normal(n)).astype(np.float32) for s, n in zip(SCALES, sizes, strict=True)]
    norm = sum(float(np.square(x).sum()) for x in drawn)
    found = []
    for x in drawn:
        histogram = Histogram.of(HostVector(x).histogram([slice(0, len(x))]), len(x))
        finest = grids(histogram, MIN_EXPONENT)[:24]
        found.append(offers(histogram, float(np.square(x).sum()) / norm, finest, never))
    return found


def spent(found: list[Offers], points: list[Point]) -> tuple[float, float]:
    """Return bits per parameter and share of the squared norm left, over all tensors."""
    size = sum(tensor.histogram.size for tensor in found)
    bits = sum(point.bits * tensor.histogram.size for tensor, point in zip(found, points, strict=True)) / size
    return bits, sum(point.error * tensor.weight for tensor, point in zip(found, points, strict=True))


@pytest.mark.parametrize("bits", [0.02, 0.3, 1.0, 3.0])
def test_a_budget_in_bits_is_met_and_leaves_less_than_the_same_bits_for_each(bits: float) -> None:
    found = tensors()
    cost, left = spent(found, share_bits(found, bits))
    assert cost == pytest.approx(bits, rel=1e-3)
    assert left < 0.95 * spent(found, each_bits(found, bits))[1]


@pytest.mark.parametrize("error", [0.8, 0.3, 0.05, 0.002])
def test_a_budget_in_error_is_met_and_costs_less_than_the_same_error_for_each(error: float) -> None:
    found = tensors()
    cost, left = spent(found, share_error(found, error))
    assert left == pytest.approx(error, rel=1e-3)
    assert cost < 0.97 * spent(found, each_error(found, error))[0]


def test_one_tensor_takes_the_whole_budget() -> None:
    found = tensors()[:1]
    assert spent(found, share_bits(found, 0.5))[0] == pytest.approx(0.5, rel=1e-3)


def test_a_tensor_whose_entries_matter_least_is_served_last() -> None:
    found = tensors()
    points = share_bits(found, 0.1)
    assert points[2].count == 0
    assert points[3].count > 0.3 * found[3].histogram.size


def test_the_lowest_and_the_highest_budget_are_nothing_and_everything() -> None:
    found = tensors()
    assert spent(found, share_bits(found, 0.0))[0] == pytest.approx(0, abs=1e-9)
    everything = share_bits(found, 1000.0)
    assert all(p.count > 0.99 * t.histogram.size for p, t in zip(everything, found, strict=True))


@pytest.mark.parametrize("selection", ["global", "tensor"])
@pytest.mark.parametrize("budget", [{"bits": 0.2}, {"bits": 1.5}, {"relative_error": 0.4}, {"relative_error": 0.03}])
def test_frames_keep_to_a_shared_budget_within_3_percent(selection: str, budget: dict[str, float]) -> None:
    manifest, x = update()
    floors = np.full(len(manifest.tensors), MIN_EXPONENT, np.int8)
    publish = PublishConfig.model_validate({"selection": selection, **budget})
    result = compress(x, manifest, floors, publish, np.random.default_rng(0))
    bits = 8 * len(encode(result.delta, manifest, from_version=0, to_version=1)) / manifest.parameters
    got = bits if "bits" in budget else 1 - result.omega
    assert got == pytest.approx(next(iter(budget.values())), rel=0.03)


def update() -> tuple[Manifest, Floats]:
    manifest = manifest_of([(f"t{i}", (1 << (18 - i), 4), "float32", False) for i in range(len(SCALES))])
    x, rng = np.zeros(manifest.length, np.float32), np.random.default_rng(1)
    for scale, (_, place) in zip(SCALES, manifest.slices(), strict=True):
        x[place] = scale * rng.standard_t(4, place.stop - place.start)
    return manifest, x


@pytest.mark.parametrize("bits", [0.003, 0.01])
def test_a_small_budget_is_not_spent_on_an_entry_for_each_of_many_tensors(bits: float) -> None:
    manifest = manifest_of([(f"t{i}", (64, 64), "float32", False) for i in range(300)])
    rng = np.random.default_rng(2)
    x = rng.standard_normal(manifest.length).astype(np.float32)
    x[: 1 << 12] *= 100
    floors = np.full(len(manifest.tensors), MIN_EXPONENT, np.int8)
    result = compress(x, manifest, floors, PublishConfig(bits=bits), rng)
    frame = Frame.open(encode(result.delta, manifest, from_version=0, to_version=1), manifest)
    assert 8 * frame.header.body_length / manifest.parameters == pytest.approx(bits, rel=0.03)
    assert np.searchsorted(result.delta.index, 1 << 12) > 0.9 * len(result.delta)
