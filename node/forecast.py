"""What a sparse, quantised delta costs and loses, if what it sends is normally distributed.

The compressor's own rules (`sparsify.py`): entries above a threshold T, on a grid of step 2^e with
e = floor(log2(T / 0.62)). Nobody knows yet where between two powers of two T will lie, so the forecast is the
mean over one octave. Entropy of mask, signs and levels is what the frame's coder comes close to. Real updates
have heavier tails and clustered masks: on the built-in tasks frames came within a third of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import log2
from statistics import NormalDist, fmean

from .config import PublishConfig
from .sparsify import DEAD_ZONE, FINEST_STEP, FULL_BITS, LOSSLESS_BITS

OCTAVE = 4
"""Places within the octave that the mean is taken over."""
TAIL = 6.0
"""Normal values further out than this many standard deviations are left out."""
NORMAL = NormalDist()


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
        budget = publish.bits
        return _search(lambda r: r.bits > budget)
    if publish.relative_error is not None:
        goal = publish.relative_error
        return _search(lambda r: r.error < goal)
    density = publish.density or 0.1
    return random(density) if publish.sparsifier == "random" else largest(density)


def grid_bits(bits: int) -> float:
    """Return the entropy of a value on a grid that many bits below the largest one, its sign included.

    A normal variable of deviation s on a step d has log2(s / d * sqrt(2 pi e)) bits; the largest of a tensor lies
    about four deviations out and half a bit above its power of two.
    """
    return bits + 0.5 - 2 + 2.05


def random(density: float) -> Rate:
    """Return the cost of entries drawn at random, each on a fine grid."""
    return Rate(density, _binary(density) + density * grid_bits(FULL_BITS), 1 - density)


@cache
def largest(density: float) -> Rate:
    """Return the cost of the largest entries by magnitude."""
    threshold = NORMAL.inv_cdf(1 - density / 2)
    top = max(threshold / DEAD_ZONE, FINEST_STEP)
    rates = [_quantised(threshold, top * 2 ** -((i + 0.5) / OCTAVE)) for i in range(OCTAVE)]
    return Rate(density, fmean(r.bits for r in rates), fmean(r.error for r in rates))


def _search(enough: Callable[[Rate], bool]) -> Rate:
    """Return the rate of the smallest density that is enough; everything if nothing is."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(largest(middle)) else (middle, high)
    return largest(high)


def _quantised(threshold: float, step: float) -> Rate:
    cut = max(threshold, step / 2)
    shares: list[float] = []
    error = _moment(0, cut, 0)
    for level in range(1, int(TAIL / step) + 2):
        low, high = max(cut, (level - 0.5) * step), (level + 0.5) * step
        if low < high:
            shares.append(2 * (NORMAL.cdf(high) - NORMAL.cdf(low)))
            error += _moment(low, high, level * step)
    kept = sum(shares)
    levels = -sum(share * log2(share / kept) for share in shares if share > 0)
    return Rate(kept, _binary(kept) + kept + levels, error)


def _moment(low: float, high: float, centre: float) -> float:
    """Return the integral of 2 (x - centre)^2 phi(x) from low to high: the squared error of both signs."""
    mass = NORMAL.cdf(high) - NORMAL.cdf(low)
    first = NORMAL.pdf(low) - NORMAL.pdf(high)
    second = mass + low * NORMAL.pdf(low) - high * NORMAL.pdf(high)
    return 2 * (second - 2 * centre * first + centre * centre * mass)


def _binary(share: float) -> float:
    """Return the entropy of a yes or no."""
    return -sum(p * log2(p) for p in (share, 1 - share) if p > 0)
