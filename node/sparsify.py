"""What to send: the compressor between a node's state and what it has published.

Every choice here is contractive, ||x - C(x)|| <= ||x||, entry by entry: what is kept is rounded to the
nearest level of at least one, what is dropped stays behind and is offered again next time.

Values are quantised by a dead zone: threshold T, step 2^e with e = floor(log2(T / 0.62)), so that
2^e <= 2 T. Tensors marked `full` (1-D tensors and normalisation buffers) are sent whole on a grid 7
bits below their largest change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..protocol.delta import Delta
from ..protocol.errors import DivergedError
from ..protocol.limits import MAX_EXPONENT, MAX_LEVEL
from ..protocol.manifest import Manifest
from .config import PublishConfig

Floats = npt.NDArray[np.float32]
DEAD_ZONE = 0.62
FULL_BITS = 7
LOSSLESS_BITS = 22
FINEST_STEP = 2.0**-3
"""A density close to 1 would ask for an absurd grid: steps stay above this share of the root mean square."""
SAMPLE = 1 << 18


@dataclass(frozen=True, slots=True)
class Compressed:
    """A delta and how much of the sparse tensors' squared norm it removes (`omega`, 0 to 1)."""

    delta: Delta
    omega: float
    residue: float
    """Norm of all that stays behind."""


def compress(
    x: Floats, manifest: Manifest, floors: npt.NDArray[np.int8], publish: PublishConfig, rng: np.random.Generator
) -> Compressed:
    """Choose and quantise entries of `x` (flat, float32, padding zero) within the budget of `publish`.

    Raises DivergedError if a value is not finite.
    """
    magnitude = np.abs(x)
    if not np.isfinite(magnitude.sum(dtype=np.float64)):
        raise DivergedError("this node's weights are not finite; lower the learning rate or restart from a checkpoint")
    places = [place for _, place in manifest.slices()]
    whole = [publish.lossless or spec.full for spec in manifest.tensors]
    keep, steps = _select(magnitude, places, whole, publish, rng)
    exponents = np.full(len(places), MAX_EXPONENT, np.int64)
    parts: list[npt.NDArray[np.int64]] = []
    levels: list[npt.NDArray[np.int32]] = []
    for t, place in enumerate(places):
        part = magnitude[place]
        if not part.size or not (largest := float(part.max())):
            continue
        top = int(np.floor(np.log2(largest)))
        step = top - (LOSSLESS_BITS if publish.lossless else FULL_BITS) if whole[t] else steps[t]
        exponent = int(np.clip(max(step, top - 28), floors[t], MAX_EXPONENT))
        index = np.arange(part.size) if whole[t] else keep[t]
        level = np.rint(np.ldexp(part[index], -exponent).astype(np.float64))
        if not whole[t]:
            # Half a step or more counts as one: rounding half to even would drop it.
            level = np.where((level == 0) & (np.ldexp(part[index], -exponent) >= 0.5), 1, level)
        chosen = level > 0
        if chosen.any():
            exponents[t] = exponent
            index = index[chosen].astype(np.int64) + place.start
            parts.append(index)
            clipped = np.minimum(level[chosen], MAX_LEVEL).astype(np.int32)
            levels.append(np.where(np.signbit(x[index]), -clipped, clipped))
    delta = Delta(
        exponents.astype(np.int8),
        np.concatenate(parts) if parts else np.empty(0, np.int64),
        np.concatenate(levels) if levels else np.empty(0, np.int32),
    )
    return Compressed(delta, *_removed(x, delta, manifest, whole))


def _select(
    magnitude: Floats,
    places: list[slice],
    whole: list[bool],
    publish: PublishConfig,
    rng: np.random.Generator,
) -> tuple[dict[int, npt.NDArray[np.int64]], dict[int, int]]:
    """Return the entries kept (relative to their tensor) and the step's exponent, per sparse tensor."""
    sparse = [t for t in range(len(places)) if not whole[t] and places[t].start < places[t].stop]
    if not sparse:
        return {}, {}
    groups = [[t] for t in sparse] if publish.selection == "tensor" else [sparse]
    keep: dict[int, npt.NDArray[np.int64]] = {}
    steps: dict[int, int] = {}
    for group in groups:
        values = np.concatenate([magnitude[places[t]] for t in group])
        density = _density(values, publish)
        index = _chosen(values, density, publish.sparsifier, rng)
        step = _step(values, index, publish.sparsifier)
        starts = np.cumsum([0] + [places[t].stop - places[t].start for t in group])
        cuts = np.searchsorted(index, starts)
        for g, t in enumerate(group):
            keep[t] = index[cuts[g] : cuts[g + 1]] - starts[g]
            steps[t] = step
    return keep, steps


def largest(values: Floats, k: int) -> npt.NDArray[np.int64]:
    """Return the indexes, ascending, of the k largest; zeros never; ties keep the smaller index."""
    k = min(k, int(np.count_nonzero(values)))
    if k == 0:
        return np.empty(0, np.int64)
    cut = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > cut)
    ties = np.flatnonzero(values == cut)[: k - len(above)]
    return np.sort(np.concatenate([above, ties])).astype(np.int64)


def _chosen(values: Floats, density: float, sparsifier: str, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    k = max(1, round(density * len(values)))
    if sparsifier == "random":
        return np.sort(rng.choice(len(values), k, replace=False)).astype(np.int64)
    return largest(values, k)


def _step(values: Floats, index: npt.NDArray[np.int64], sparsifier: str) -> int:
    kept = values[index]
    kept = kept[kept > 0]
    if not kept.size:
        return MAX_EXPONENT
    if sparsifier == "random":
        return int(np.floor(np.log2(kept.max()))) - FULL_BITS
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    return int(np.floor(np.log2(max(float(kept.min()) / DEAD_ZONE, rms * FINEST_STEP))))


def _density(values: Floats, publish: PublishConfig) -> float:
    """Translate the budget into a density, on a sample for the budgets that need a search."""
    if publish.bits is None and publish.relative_error is None:
        return publish.density or 0.1
    stride = max(1, len(values) // SAMPLE)
    ordered = np.sort(values[::stride].astype(np.float64))[::-1]
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        bits, error = _forecast(ordered, middle)
        enough = bits > publish.bits if publish.bits is not None else error < (publish.relative_error or 0)
        low, high = (low, middle) if enough else (middle, high)
    return max(high, 1 / len(values))


def _forecast(ordered: npt.NDArray[np.float64], density: float) -> tuple[float, float]:
    """Estimate bits per parameter (entropy of mask, signs and levels) and relative squared error."""
    n = len(ordered)
    k = min(max(1, round(density * n)), int(np.count_nonzero(ordered)))
    total = float(np.square(ordered).sum())
    if not k or not total:
        return 0.0, 0.0
    kept = ordered[:k]
    rms = np.sqrt(total / n)
    step = 2.0 ** np.floor(np.log2(max(kept[-1] / DEAD_ZONE, rms * FINEST_STEP)))
    levels = np.rint(kept / step)
    k = int(np.count_nonzero(levels))
    error = total - float(np.square(kept).sum()) + float(np.square(kept - levels * step).sum())
    share = np.array([k / n, 1 - k / n])
    mask = -float((share[share > 0] * np.log2(share[share > 0])).sum())
    _, counts = np.unique(levels[:k], return_counts=True)
    p = counts / max(1, k)
    return mask + k / n * (1 - float((p * np.log2(p)).sum())), error / total


def _removed(x: Floats, delta: Delta, manifest: Manifest, whole: list[bool]) -> tuple[float, float]:
    """Return omega over the sparse tensors, and the norm of the whole residue."""
    bounds = delta.bounds(manifest)
    total = np.zeros(len(whole))
    left = np.zeros(len(whole))
    for t, (_, place) in enumerate(manifest.slices()):
        index = delta.index[bounds[t] : bounds[t + 1]]
        value = np.ldexp(delta.levels[bounds[t] : bounds[t + 1]].astype(np.float64), int(delta.exponents[t]))
        kept = x[index].astype(np.float64)
        part = x[place].astype(np.float64)
        total[t] = part @ part
        left[t] = max(0.0, total[t] - kept @ kept + np.square(kept - value).sum())
    sparse = ~np.array(whole, dtype=bool)
    norm = float(total[sparse].sum())
    omega = 1 - float(left[sparse].sum()) / norm if norm > 0 else 1.0
    return min(1.0, max(0.0, omega)), float(np.sqrt(left.sum()))
