from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.config import PublishConfig
from peermerge.node.estimate import FRAME_BYTES
from peermerge.node.forecast import largest, random, rate
from peermerge.node.sparsify import compress
from peermerge.protocol.codec import encode
from peermerge.protocol.manifest import manifest_of

N = 1 << 17
DENSITIES = st.floats(0.0001, 1)


def measured(publish: PublishConfig, scale: float) -> tuple[float, float]:
    """Return bits per parameter and the share left behind, of a normal update through compressor and codec."""
    manifest = manifest_of([("weight", (N // 256, 256), "float32", False)])
    rng = np.random.default_rng(0)
    x = rng.normal(scale=scale, size=N).astype(np.float32)
    done = compress(x, manifest, np.full(1, -60, np.int8), publish, rng)
    body = len(encode(done.delta, manifest, from_version=0, to_version=1)) - FRAME_BYTES
    return 8 * body / N, 1 - done.omega


@pytest.mark.parametrize(
    "publish",
    [
        PublishConfig(density=0.01),
        PublishConfig(density=0.1),
        PublishConfig(density=0.4),
        PublishConfig(bits=1.0),
        PublishConfig(relative_error=0.1),
        PublishConfig(density=0.1, sparsifier="random"),
        PublishConfig(lossless=True),
    ],
)
def test_the_forecast_meets_what_the_codec_does_to_normal_updates(publish: PublishConfig) -> None:
    octave = [measured(publish, 2 ** (i / 4)) for i in range(4)]
    bits, error = (float(np.mean(column)) for column in zip(*octave, strict=True))
    assert rate(publish).bits == pytest.approx(bits, rel=0.05)
    assert rate(publish).error == pytest.approx(error, rel=0.05, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(DENSITIES, DENSITIES)
def test_more_entries_cost_more_and_leave_less_behind(one: float, other: float) -> None:
    few, many = (largest(density) for density in sorted((one, other)))
    assert few.bits <= many.bits + 1e-9
    assert few.error >= many.error - 1e-9


@settings(deadline=None, max_examples=30)
@given(DENSITIES)
def test_errors_are_shares_and_the_largest_beat_the_random(density: float) -> None:
    assert 0 <= largest(density).error <= 1
    assert largest(density).error <= random(density).error + 1e-3


@settings(deadline=None, max_examples=10)
@given(st.floats(0.05, 4))
def test_a_budget_in_bits_is_spent(bits: float) -> None:
    assert rate(PublishConfig(bits=bits)).bits == pytest.approx(bits, rel=0.02)
