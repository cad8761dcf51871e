"""What to send: the compressor between a node's state and what it has published.

Every choice here is contractive, ||x - C(x)|| <= ||x||, entry by entry: what is kept is rounded to the
nearest level of at least one, what is dropped stays behind and is offered again next time.

Values are quantised by a dead zone: threshold T and step 2^e, with 2^e <= 2 T. For a density T follows from the number
of entries, and e = floor(log2(T / 0.62)); for a budget in bits or in error `rate.py` foretells both, and what comes of
it is measured and corrected. Tensors marked `full` (1-D tensors and normalisation buffers) are sent whole on a grid 7
bits below their largest change; no budget counts them.

Memory is taken for blocks and for what is sent, never for another vector of the model's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..protocol.codec import Effort, Frame, encode
from ..protocol.delta import Delta
from ..protocol.errors import DivergedError
from ..protocol.manifest import Manifest
from .allocation import Offers, each_bits, each_error, offers, share_bits, share_error
from .config import DENSITY, PublishConfig
from .pieces import Choice, Group, Piece, Pieces, Update, delta_of, group_of, largest, left_behind, octave, quantised
from .rate import Curve, Grid, Histogram, Point, grids
from .selection import approximate_cut, cut, draw
from .vectors import Cut, Floats, HostVector, Runs, Vector

DEAD_ZONE = 0.62
FULL_BITS = 7
LOSSLESS_BITS = 22
FINEST_STEP = 2.0**-3
"""A density close to 1 would ask for an absurd grid: steps stay above this share of the root mean square."""
CODED = 1.012
"""Frames take so much more than the entropy of independent entries, give or take one in a hundred."""
TOLERANCE = 0.02
"""A budget is met if it is missed by no more than this share."""
ATTEMPTS = 5
"""How often a budget is aimed for; entries that are not independent need a second or third attempt."""
SPARE_BITS, SPARE_ERROR = 6.0, 64.0
"""Grids are tried up to one on which all entries take so much more than the budget, or leave so many times less."""
FREE = 2
"""Attempts that choose the grid. Later ones keep it: each grid's frames are off in their own way."""

Doubles: TypeAlias = npt.NDArray[np.float64]
Pick: TypeAlias = Callable[[Vector, Runs, int], Cut]


@dataclass(frozen=True, slots=True)
class Target:
    """A budget and where to aim first."""

    budget: float
    aim: float
    foretell: Callable[[Sequence[Offers], float], list[Point]]
    """Which points meet an aim."""
    enough: Callable[[Curve], bool]
    """Whether any tensor could want a finer grid than one that offers this."""
    measure: Callable[[Update, list[Group], Pieces], float]
    """What was spent."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A delta and how much of the sparse tensors' squared norm it removes (`omega`, 0 to 1)."""

    delta: Delta
    omega: float
    residue: float
    """Norm of all that stays behind."""


def compress(
    x: Floats | Vector,
    manifest: Manifest,
    floors: npt.NDArray[np.int8],
    publish: PublishConfig,
    rng: np.random.Generator,
) -> Compressed:
    """Choose and quantise entries of `x` (flat, float32, padding zero) within the budget of `publish`.

    What lies on another device comes as a `TensorVector`. Raises DivergedError if a value is not finite.
    """
    vector = HostVector(x) if isinstance(x, np.ndarray) else x
    places = [place for _, place in manifest.slices()]
    update = Update(vector, manifest, places, floors, np.array([vector.squares(place) for place in places]))
    if not np.isfinite(update.squares).all():
        raise DivergedError("this node's weights are not finite; lower the learning rate or restart from a checkpoint")
    whole = [t for t, spec in enumerate(manifest.tensors) if publish.lossless or spec.full]
    sparse = [t for t, spec in enumerate(manifest.tensors) if not (publish.lossless or spec.full)]
    pieces = _sparse(update, sparse, publish, rng)
    bits = LOSSLESS_BITS if publish.lossless else FULL_BITS
    alone = _groups(update, [[t] for t in whole])
    pieces |= quantised(update, alone, (_everything(update, group, bits) for group in alone))
    left = left_behind(update, pieces)
    return Compressed(delta_of(update, pieces), 1 - _share(left, update.squares, sparse), math.sqrt(left.sum()))


def _sparse(update: Update, tensors: list[int], publish: PublishConfig, rng: np.random.Generator) -> dict[int, Piece]:
    """Spend the budget on the tensors that are not sent whole."""
    one_by_one = _groups(update, [[t] for t in tensors])
    pick = approximate_cut if publish.approximate else cut
    if (target := _target(publish)) is not None:
        return _on_target(update, one_by_one, pick, target)
    groups = one_by_one if publish.selection == "tensor" else _groups(update, [tensors])
    density = publish.density or DENSITY
    if publish.sparsifier == "random":
        return quantised(update, groups, (_at_random(update, group, density, rng) for group in groups))
    return quantised(update, groups, (_largest(update, group, pick, density) for group in groups))


def _target(publish: PublishConfig) -> Target | None:
    """Return what a budget in bits or in error asks for: of each tensor, or of all of them together."""
    of_bits, of_error = (each_bits, each_error) if publish.selection == "tensor" else (share_bits, share_error)
    if (bits := publish.bits) is not None:
        measure = partial(_bits, publish.effort)
        return Target(bits, bits / CODED, of_bits, lambda one: bool(one.bits[-1] > bits + SPARE_BITS), measure)
    if (left := publish.relative_error) is not None:
        return Target(left, left, of_error, lambda one: bool(one.error[-1] < left / SPARE_ERROR), _error)
    return None


def _everything(update: Update, group: Group, bits: int) -> Choice:
    """Choose all entries, on a grid so many bits below the largest."""
    [place] = group.runs
    values = update.vector.take(place)
    return Choice(np.arange(place.start, place.stop), values, Grid(octave(largest(values)) - bits))


def _at_random(update: Update, group: Group, density: float, rng: np.random.Generator) -> Choice:
    """Choose any entries, on a grid as fine as that of tensors sent whole."""
    index = draw([update.places[t] for t in group.tensors], density, rng)
    values = update.vector.take(index)
    return Choice(index, values, Grid(octave(largest(values)) - FULL_BITS))


def _largest(update: Update, group: Group, pick: Pick, density: float) -> Choice:
    """Choose the largest entries, on a grid that fits the smallest of them."""
    index = update.vector.indexes(group.runs, pick(update.vector, group.runs, max(1, round(density * group.size))))
    values = update.vector.take(index)
    rms = math.sqrt(group.squares / group.size)
    return Choice(index, values, Grid(octave(max(float(np.abs(values).min()) / DEAD_ZONE, rms * FINEST_STEP))))


def _at_point(update: Update, group: Group, pick: Pick, point: Point) -> Choice:
    """Choose as many of the largest entries, on the grid, as was found best."""
    index = update.vector.indexes(group.runs, pick(update.vector, group.runs, round(point.count)))
    return Choice(index, update.vector.take(index), point.grid)


def _at_points(update: Update, groups: list[Group], pick: Pick, points: list[Point]) -> dict[int, Piece]:
    """Take every group's point; the group of most entries sends one where all would send none."""
    most = max(range(len(points)), key=lambda number: points[number].count, default=0)
    if points and round(points[most].count) < 1:
        points = [replace(p, count=float(number == most)) for number, p in enumerate(points)]
    sending = [(group, point) for group, point in zip(groups, points, strict=True) if round(point.count) > 0]
    choices = (_at_point(update, group, pick, point) for group, point in sending)
    return quantised(update, [group for group, _ in sending], choices)


def _on_target(update: Update, groups: list[Group], pick: Pick, target: Target) -> dict[int, Piece]:
    """Aim, measure what comes of it, and aim again until the budget is met or nothing changes any more."""
    norm = sum(group.squares for group in groups)
    histograms = [Histogram.of(update.vector.histogram(group.runs), group.size) for group in groups]
    offered = [
        offers(histogram, group.squares / norm, grids(histogram, group.floor), target.enough)
        for histogram, group in zip(histograms, groups, strict=True)
    ]
    aim = target.aim
    nearest: tuple[float, dict[int, Piece]] = math.inf, {}
    before: list[Point] = []
    for attempt in range(ATTEMPTS):
        if attempt == FREE:
            kept = zip(offered, before, strict=True)
            offered = [offers(one.histogram, one.weight, [point.grid], target.enough) for one, point in kept]
        points = target.foretell(offered, aim)
        if points == before:
            break
        before = points
        pieces = _at_points(update, groups, pick, points)
        spent = target.measure(update, groups, pieces)
        missed = abs(spent / target.budget - 1)
        nearest = min(nearest, (missed, pieces), key=lambda one: one[0])
        if not spent or missed <= TOLERANCE:
            break
        aim *= target.budget / spent
    return nearest[1]


def _bits(effort: Effort, update: Update, groups: list[Group], pieces: Pieces) -> float:
    """Return the bits per parameter that these pieces take in a frame, its header and tables left out."""
    delta = delta_of(update, pieces)
    coded = encode(delta, update.manifest, from_version=0, to_version=1, effort=effort)
    frame = Frame.open(coded, update.manifest)
    return 8 * frame.header.body_length / sum(group.size for group in groups)


def _error(update: Update, groups: list[Group], pieces: Pieces) -> float:
    """Return the share of the squared norm that these pieces leave behind."""
    tensors = [t for group in groups for t in group.tensors]
    return _share(left_behind(update, pieces), update.squares, tensors)


def _share(left: Doubles, squares: Doubles, tensors: list[int]) -> float:
    """Return the share of these tensors' squared norm that is left; nothing of nothing."""
    norm = float(squares[tensors].sum())
    return min(1.0, float(left[tensors].sum()) / norm) if norm > 0 else 0.0


def _groups(update: Update, tensors: list[list[int]]) -> list[Group]:
    """Return the groups that hold anything but zeros."""
    return [found for found in (group_of(update, one) for one in tensors) if found.squares > 0]
