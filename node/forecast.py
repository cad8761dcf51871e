"""What a sparse, quantised delta costs and loses, if what it sends is normally distributed.

The compressor's own arithmetic (`rate.py`) on the histogram of a normal variable. Nobody knows yet where between two
powers of two its deviation will lie, so the forecast is the mean over one octave. Real updates have heavier tails and
clustered masks: on the built-in tasks frames came within a third of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import erf, log2, sqrt
from statistics import NormalDist, fmean

import numpy as np

from ..protocol.limits import MIN_EXPONENT
from .config import DENSITY, PublishConfig
from .pieces import octave
from .rate import Grid, Histogram, Point, bin_edges, curve, for_bits, for_error, grids
from .sparsify import CODED, DEAD_ZONE, FINEST_STEP, FULL_BITS, LOSSLESS_BITS

ENTRIES = 1 << 24
"""Of the imagined vector."""
DEVIATIONS = [2 ** ((i + 0.5) / 4) for i in range(4)]
"""Places within an octave that the mean is taken over."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Share of the entries sent, bits per parameter, and the share of the squared norm that stays behind."""

    density: float
    bits: float
    error: float


def rate(publish: PublishConfig) -> Rate:
    """Return what a round's budget buys."""
    if publish.lossless:
        return Rate(1.0, grid_bits(LOSSLESS_BITS), 0.0)
    if publish.bits is not None:
        bits = publish.bits / CODED
        return _mean(lambda deviation: for_bits(normal(deviation), bits, grids(normal(deviation), MIN_EXPONENT)))
    if publish.relative_error is not None:
        error = publish.relative_error
        return _mean(lambda deviation: for_error(normal(deviation), error, grids(normal(deviation), MIN_EXPONENT)))
    density = publish.density or DENSITY
    return random(density) if publish.sparsifier == "random" else largest(density)


def grid_bits(bits: int) -> float:
    """Return the entropy of a value on a grid that many bits below the largest one, its sign included.

    A normal variable of deviation s on a step d has log2(s / d * sqrt(2 pi e)) bits; the largest of a tensor lies
    about four deviations out and half a bit above its power of two.
    """
    return bits + 0.5 - 2 + 2.05


def random(density: float) -> Rate:
    """Return the cost of entries drawn at random, each on a fine grid."""
    mask = -sum(p * log2(p) for p in (density, 1 - density) if p > 0)
    return Rate(density, mask + density * grid_bits(FULL_BITS), 1 - density)


def largest(density: float) -> Rate:
    """Return the cost of the largest entries by magnitude."""
    threshold = NormalDist().inv_cdf(1 - density / 2)
    step = max(threshold / DEAD_ZONE, FINEST_STEP)
    return _mean(lambda deviation: curve(normal(deviation), Grid(octave(step * deviation))).at_count(density * ENTRIES))


@cache
def normal(deviation: float) -> Histogram:
    """Return the expected histogram of a normal variable of this standard deviation."""
    below = np.array([erf(edge / deviation / sqrt(2)) for edge in bin_edges().tolist()])
    return Histogram.of(np.diff(below) * ENTRIES, ENTRIES)


def _mean(point: Callable[[float], Point]) -> Rate:
    """Average over the octave."""
    points = [point(deviation) for deviation in DEVIATIONS]
    return Rate(
        fmean(p.count for p in points) / ENTRIES,
        fmean(p.bits for p in points) * CODED,
        fmean(p.error for p in points),
    )
