"""Weights from what contributors report of their training: lower losses and more steps weigh more.

Metrics-weighted averaging as a paper's abstract has it; the formulas are ours. A contributor can lie about its metric:
no weight goes below half or above twice an equal share. Losses on different data do not compare: where there is a
choice, evaluate every contributor on the same held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ...protocol.errors import ConfigError

Curve = Literal["power", "softmax"]

HALVINGS = 100


def weights_by_loss(losses: Sequence[float], beta: float = 1.0, curve: Curve = "power") -> tuple[float, ...]:
    """Return one weight per contributor, in sum 1, that grows as the loss falls.

    With u = 1 for the lowest loss, 0 for the highest and a line between, weights are proportional to (1 + u)^beta
    ("power") or exp(beta u) ("softmax"), within [1 / (2 k), 2 / k] of k contributors: all are multiplied by the one
    number with which the clipped weights sum to 1. beta = 0, and equal losses, give equal weights. Raises ConfigError
    if a loss is not finite.
    """
    _check(losses, beta)
    if not losses:
        return ()
    low, high = min(losses), max(losses)
    ranks = [(high - loss) / (high - low) if high > low else 0.0 for loss in losses]
    return _clipped([beta * (math.log1p(u) if curve == "power" else u) for u in ranks])


def weights_by_steps(steps: Sequence[float], beta: float = 1.0, curve: Curve = "power") -> tuple[float, ...]:
    """Return one weight per contributor that grows with its number of steps, as lower losses do."""
    return weights_by_loss([-count for count in steps], beta, curve)


def _clipped(logarithms: Sequence[float]) -> tuple[float, ...]:
    """Return weights exp(l + s) between their bounds, where the shift s, found by bisection, makes the sum 1."""
    count = len(logarithms)
    least, most = math.log(0.5 / count), math.log(2 / count)

    def weights(shift: float) -> tuple[float, ...]:
        return tuple(math.exp(min(max(logarithm + shift, least), most)) for logarithm in logarithms)

    below, above = least - max(logarithms), most - min(logarithms)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        below, above = (middle, above) if math.fsum(weights(middle)) < 1 else (below, middle)
    return weights(above)


def _check(metrics: Sequence[float], beta: float) -> None:
    for i, metric in enumerate(metrics):
        if not math.isfinite(metric):
            raise ConfigError(f"metric {i} is {metric}: leave contributors without a finite metric out")
    if not math.isfinite(beta):
        raise ConfigError(f"beta = {beta}: give a finite number")
