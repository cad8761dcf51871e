"""Deltas to measure a codec with: independent values, a dead zone that turns values into levels, and its entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from peermerge.protocol.delta import Delta
from peermerge.protocol.limits import MAX_LEVEL
from peermerge.protocol.manifest import Manifest, manifest_of

Floats: TypeAlias = npt.NDArray[np.float32]

DEAD_ZONE = 0.62
"""Threshold over step: the best of a uniform grid for values like these."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Keep what reaches the threshold, as at least 1 and at most `most` times the step."""

    threshold: float
    step: float
    most: int = MAX_LEVEL


@dataclass(frozen=True)
class Input:
    """Flat values with their manifest, padding zero."""

    manifest: Manifest
    values: Floats

    @cached_property
    def descending(self) -> Floats:
        """The magnitudes, the largest first."""
        return np.sort(np.abs(self.values))[::-1]

    @cached_property
    def rms(self) -> float:
        """Root mean square over the parameters."""
        return float(np.sqrt(squares(self.values) / self.manifest.parameters))


@dataclass(frozen=True, slots=True)
class Quantised:
    """A delta, the squared norm of what it stands for, and that of what it leaves out."""

    delta: Delta
    total: float
    left: float

    @property
    def energy(self) -> float:
        """Share of the squared norm that is captured."""
        return 1 - self.left / self.total


def gaussian(count: int, rng: np.random.Generator) -> Floats:
    """Draw from the normal distribution."""
    return rng.standard_normal(count, dtype=np.float32)


def heavy(count: int, rng: np.random.Generator) -> Floats:
    """Draw from Student's t with 3 degrees of freedom: a level of many hundreds now and then."""
    return rng.standard_t(3, count).astype(np.float32)


INDEPENDENT: dict[str, Callable[[int, np.random.Generator], Floats]] = {"gauss": gaussian, "heavy": heavy}


def independent(name: str, count: int, seed: int = 0) -> Input:
    """Return one tensor of independent values."""
    values = INDEPENDENT[name](count, np.random.default_rng(seed))
    return Input(manifest_of([("w", (count,), "float32", False)]), values)


def flatten(tensors: Mapping[str, Floats]) -> Input:
    """Return tensors in the flat index space of their manifest."""
    manifest = manifest_of((name, tensor.shape, "float32", False) for name, tensor in tensors.items())
    values = np.zeros(manifest.length, np.float32)
    for spec, place in manifest.slices():
        values[place] = tensors[spec.name].ravel()
    return Input(manifest, values)


def squares(values: npt.NDArray[np.floating[Any]]) -> float:
    """Return the sum of squares, added up in float64."""
    return float(np.einsum("i,i->", values, values, dtype=np.float64))


def top(source: Input, density: float) -> Setting:
    """Return the setting of a density: the dead zone ends at the last entry kept, on the coarsest power of two."""
    threshold = float(source.descending[_count(source, density) - 1])
    return Setting(threshold, floor_power(threshold / DEAD_ZONE))


def ternary(source: Input, density: float) -> Setting:
    """Return the setting of a density where all that is kept has level 1: the power of two nearest to their mean."""
    kept = source.descending[: _count(source, density)]
    return Setting(float(kept[-1]), nearest_power(float(kept.mean(dtype=np.float64))), most=1)


def dead_zone(step: float) -> Setting:
    """Return the setting of a step."""
    return Setting(DEAD_ZONE * step, step)


def floor_power(step: float) -> float:
    """Return the largest power of two up to `step`."""
    return float(2.0 ** np.floor(np.log2(step)))


def nearest_power(step: float) -> float:
    """Return the power of two that is nearest in ratio."""
    return float(2.0 ** np.rint(np.log2(step)))


def quantise(source: Input, setting: Setting) -> Quantised:
    """Return the delta of a setting; the frame's exponents are that of the step, rounded down."""
    index = np.flatnonzero(np.abs(source.values) >= setting.threshold)
    values = source.values[index]
    levels = np.copysign(np.clip(np.rint(np.abs(values) / setting.step), 1, setting.most), values).astype(np.int32)
    rounding = values - levels.astype(np.float32) * np.float32(setting.step)
    exponents = np.full(len(source.manifest.tensors), np.floor(np.log2(setting.step)), np.int8)
    left = squares(np.delete(source.values, index)) + squares(rounding)
    return Quantised(Delta(exponents, index, levels), squares(source.values), left)


def entropy_bytes(delta: Delta, parameters: int) -> float:
    """Return mask, signs and zeroth-order levels in bytes, entries independent and of one distribution."""
    kept = len(delta)
    magnitudes = np.unique(np.abs(delta.levels), return_counts=True)[1]
    return (_bits([kept, parameters - kept]) + kept + _bits(magnitudes)) / 8


def _count(source: Input, density: float) -> int:
    return max(1, round(density * source.manifest.parameters))


def _bits(counts: npt.ArrayLike) -> float:
    """Return the entropy of a sequence with these counts, in bits for the whole of it."""
    used = np.array(counts, dtype=np.float64)
    used = used[used > 0]
    return float((used * np.log2(used.sum() / used)).sum())
