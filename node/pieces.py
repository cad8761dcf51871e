"""From chosen entries to levels: what is sent of each tensor, and what stays behind.

Rounding is contractive entry by entry: v becomes floor(|v| / step + 1/2) steps, so half a step counts as one and less
is dropped; what is sent is at most 2 |v|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..protocol.delta import Delta
from ..protocol.limits import ALIGNMENT, MAX_EXPONENT, MAX_LEVEL
from ..protocol.manifest import Manifest
from .rate import LEVEL_BITS, Grid
from .vectors import Floats, Index, Runs, Vector, blocks


@dataclass(frozen=True, slots=True)
class Update:
    """What is compressed: a vector, its tensors' places (padding left out), finest exponents and squared norms."""

    vector: Vector
    manifest: Manifest
    places: list[slice]
    floors: npt.NDArray[np.int8]
    squares: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors whose entries compete: where they lie, entries without padding, squared norm, the lowest floor.

    `runs` joins neighbours over the padding between them.
    """

    tensors: list[int]
    runs: Runs
    size: int
    squares: float
    floor: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Entries of a group: flat indexes, ascending, their values, and their grid."""

    index: Index
    values: Floats
    grid: Grid


@dataclass(frozen=True, slots=True)
class Piece:
    """What is sent of one tensor, and the squared norm of what stays behind of it."""

    exponent: int
    index: Index
    levels: npt.NDArray[np.int32]
    left: float


Pieces: TypeAlias = Mapping[int, Piece]
"""By tensor; one of which nothing was chosen may be missing."""


def group_of(update: Update, tensors: list[int]) -> Group:
    """Let these tensors compete."""
    places = [update.places[t] for t in tensors]
    return Group(
        tensors,
        joined(places),
        sum(place.stop - place.start for place in places),
        float(update.squares[tensors].sum()),
        int(update.floors[tensors].min(initial=MAX_EXPONENT)),
    )


def joined(places: Iterable[slice]) -> list[slice]:
    """Join places that only padding, whose zeros are never chosen, lies between."""
    runs: list[slice] = []
    for place in places:
        if runs and place.start - runs[-1].stop < ALIGNMENT:
            runs[-1] = slice(runs[-1].start, place.stop)
        else:
            runs.append(place)
    return runs


def quantised(update: Update, groups: Iterable[Group], choices: Iterable[Choice]) -> dict[int, Piece]:
    """Round what was chosen of each group."""
    pairs = zip(groups, choices, strict=True)
    return {t: piece for one, choice in pairs for t, piece in _split(update, one, choice)}


def left_behind(update: Update, pieces: Pieces) -> npt.NDArray[np.float64]:
    """Return the squared norm that stays behind, per tensor."""
    left = update.squares.copy()
    for t, piece in pieces.items():
        left[t] = piece.left
    return left


def delta_of(update: Update, pieces: Pieces) -> Delta:
    """Put the pieces together."""
    used = [(t, piece) for t, piece in sorted(pieces.items()) if len(piece.index)]
    exponents = np.full(len(update.places), MAX_EXPONENT, np.int8)
    for t, piece in used:
        exponents[t] = piece.exponent
    return Delta(
        exponents,
        np.concatenate([np.empty(0, np.int64), *(piece.index for _, piece in used)]),
        np.concatenate([np.empty(0, np.int32), *(piece.levels for _, piece in used)]),
    )


def largest(values: Floats) -> float:
    """Return the largest magnitude of values (at least one)."""
    return max(float(values.max()), -float(values.min()))


def octave(value: float) -> int:
    """Return floor(log2(value)), exactly."""
    return math.frexp(value)[1] - 1


def _split(update: Update, one: Group, choice: Choice) -> Iterator[tuple[int, Piece]]:
    starts = [update.places[t].start for t in one.tensors]
    bounds = [*np.searchsorted(choice.index, starts).tolist(), len(choice.index)]
    for t, (begin, end) in zip(one.tensors, pairwise(bounds), strict=True):
        if begin < end:
            part = Choice(choice.index[begin:end], choice.values[begin:end], choice.grid)
            yield t, _quantised(update, t, part)


def _quantised(update: Update, t: int, choice: Choice) -> Piece:
    """Round one tensor's entries, on a coarser grid where the floor or the largest of them asks for it."""
    finest = octave(largest(choice.values)) - LEVEL_BITS
    exponent = int(np.clip(max(choice.grid.exponent, finest), update.floors[t], MAX_EXPONENT))
    multiple = choice.grid.multiple if exponent == choice.grid.exponent else 1
    levels = np.empty(len(choice.index), np.int32)
    offered = lost = 0.0
    for block in blocks([slice(0, len(levels))]):
        steps = np.ldexp(choice.values[block].astype(np.float64), -exponent)
        rounded = np.minimum(np.floor(np.abs(steps) / multiple + 0.5) * multiple, MAX_LEVEL)
        wrong = np.abs(steps) - rounded
        offered += float(steps @ steps)
        lost += float(wrong @ wrong)
        levels[block] = np.copysign(rounded, steps)
    scale = 4.0**exponent
    left = max(0.0, float(update.squares[t]) - offered * scale) + lost * scale
    sent = levels != 0
    if sent.all():
        return Piece(exponent, choice.index, levels, left)
    return Piece(exponent, choice.index[sent], levels[sent], left)
