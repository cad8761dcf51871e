"""One budget for many tensors: each takes the point at which a bit buys as much of the error as it does elsewhere.

With a price on what stays behind, every tensor chooses for itself the point of least bits + price * error, and one
price, found by bisection, meets the budget (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of
quantizers"). Between two prices a few tensors jump; the last of them takes what is left of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .rate import Curve, Grid, Histogram, Point, curve, for_bits, for_error

Doubles: TypeAlias = npt.NDArray[np.float64]
POINTS = 256
"""Points of a grid that are compared."""
BISECTIONS = 60
LOWEST, HIGHEST = -80.0, 80.0
"""Prices, as powers of two: bits for the whole squared norm."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What one tensor can do: bits spent and error left, in the whole's units, of points on all its grids."""

    histogram: Histogram
    weight: float
    """The tensor's share of the whole squared norm."""
    grids: Sequence[Grid]
    counts: Doubles
    bits: Doubles
    error: Doubles
    origin: npt.NDArray[np.int64]
    """Which of the grids a point is on."""

    def cheapest(self, price: float) -> int:
        """Return the point of least bits + price * error."""
        return int(np.argmin(self.bits + price * self.error))

    def point(self, number: int) -> Point:
        """Return a point in the tensor's own units."""
        bits, error = self.bits[number] / self.histogram.size, self.error[number] / self.weight
        return Point(float(self.counts[number]), self.grids[self.origin[number]], float(bits), float(error))


def offers(histogram: Histogram, weight: float, grids: Iterable[Grid], enough: Callable[[Curve], bool]) -> Offers:
    """Gather the points of ever finer grids, up to the first that offers enough."""
    curves: list[Curve] = []
    for grid in grids:
        curves.append(curve(histogram, grid))
        if enough(curves[-1]):
            break
    picks = [np.unique(np.linspace(0, len(one.counts) - 1, POINTS).astype(np.int64)) for one in curves]
    pairs = list(zip(curves, picks, strict=True))
    return Offers(
        histogram,
        weight,
        [one.grid for one in curves],
        np.concatenate([one.counts[pick] for one, pick in pairs]),
        np.concatenate([one.bits[pick] for one, pick in pairs]) * histogram.size,
        np.concatenate([one.error[pick] for one, pick in pairs]) * weight,
        np.repeat(np.arange(len(curves)), [len(pick) for pick in picks]),
    )


def each_bits(tensors: Sequence[Offers], bits: float) -> list[Point]:
    """Return a point per tensor, each of so many bits per parameter."""
    return [for_bits(tensor.histogram, bits, tensor.grids) for tensor in tensors]


def each_error(tensors: Sequence[Offers], error: float) -> list[Point]:
    """Return a point per tensor, each of which leaves this share of its tensor's squared norm."""
    return [for_error(tensor.histogram, error, tensor.grids) for tensor in tensors]


def share_bits(tensors: Sequence[Offers], bits: float) -> list[Point]:
    """Return a point per tensor, together of so many bits per parameter, that leave the least behind."""
    goal = bits * sum(tensor.histogram.size for tensor in tensors)

    def rest(tensor: Offers, left: float) -> Point:
        return for_bits(tensor.histogram, max(0.0, left) / tensor.histogram.size, tensor.grids)

    return _shared(tensors, goal, [tensor.bits for tensor in tensors], rest)


def share_error(tensors: Sequence[Offers], error: float) -> list[Point]:
    """Return a point per tensor that together leave this share of the whole squared norm, for the least bits."""

    def rest(tensor: Offers, left: float) -> Point:
        return for_error(tensor.histogram, min(1.0, -left / tensor.weight), tensor.grids)

    return _shared(tensors, -error, [-tensor.error for tensor in tensors], rest)


def _shared(
    tensors: Sequence[Offers], goal: float, spent: list[Doubles], rest: Callable[[Offers, float], Point]
) -> list[Point]:
    """Find the price, then move tensors from its poor side to its rich one until the goal is reached.

    `spent` is what rises with the price, per tensor and point: bits, or the error's negative.
    """

    def at(price: float) -> list[int]:
        return [tensor.cheapest(2.0**price) for tensor in tensors]

    def total(chosen: list[int]) -> float:
        return sum(float(of_tensor[point]) for of_tensor, point in zip(spent, chosen, strict=True))

    low, high = LOWEST, HIGHEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if total(at(middle)) <= goal else (low, middle)
    poor, rich = at(low), at(high)
    points = [tensor.point(number) for tensor, number in zip(tensors, poor, strict=True)]
    left = goal - total(poor)
    for place, (tensor, one, other) in enumerate(zip(tensors, poor, rich, strict=True)):
        step = float(spent[place][other] - spent[place][one])
        if step > left:
            points[place] = rest(tensor, left + float(spent[place][one]))
            break
        points[place] = tensor.point(other)
        left -= step
    return points
