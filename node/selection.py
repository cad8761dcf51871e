"""Which entries to keep: the k largest magnitudes of a vector, or any share of them.

Exact selection brackets the k-th largest by a sample, counts what lies above the bracket and collects what lies
inside in one pass, and lets a partition of those few find it. Where the bracket misses, or so many entries are equal
that too many lie inside, two counting passes settle it digit by digit, as a radix sort does.
"""

from __future__ import annotations

import numpy as np

from .vectors import BEYOND, BLOCK, LOWER, MAGNITUDE, Cut, Index, Patterns, Runs, Vector, blocks

DEVIATIONS = 4
"""Half the width of a bracket, in standard deviations of the sample's count above the threshold: 1 in 16,000 misses."""
FEW = 32
"""At most one entry in so many (and a block) is collected."""
SURE = 4096
"""Entries of the sample above an approximate threshold: its count has a standard deviation of 1 / sqrt(SURE)."""
SCATTERED = 64
"""A sample of more than one entry in so many is no cheaper than a pass: it takes each from a place of its own."""


def cut(vector: Vector, runs: Runs, k: int) -> Cut:
    """Return the cut that keeps the k largest magnitudes, of ties the first; zeros never, however large k is."""
    size = length(runs)
    k = min(k, size)
    low, high = _bracket(vector, runs, k)
    above, inside = vector.between(runs, low, high, size // FEW + BLOCK)
    if inside is not None and above < k <= above + len(inside):
        place = len(inside) - (k - above)
        found = np.partition(inside, place)[place]
        ties = k - above - int(np.count_nonzero(inside > found))
        return _cut(int(found), ties, int(np.count_nonzero(inside == found)))
    if inside is not None and low == 1 and k > above:
        return Cut(0)
    return _by_digits(vector, runs, k)


def approximate_cut(vector: Vector, runs: Runs, k: int) -> Cut:
    """Return a cut from a sample alone: of distinct values it keeps k, give or take 1.6 % (a standard deviation).

    Exact for k below SURE * SCATTERED, 262,144, where the sample would cost as much.
    """
    if k < SURE * SCATTERED:
        return cut(vector, runs, k)
    sample = _sample(vector, runs, round(length(runs) * SURE / k))
    return Cut(max(0, int(np.partition(sample, len(sample) - SURE)[len(sample) - SURE]) - 1))


def draw(places: Runs, density: float, rng: np.random.Generator) -> Index:
    """Return indexes, ascending, of a share of the entries (at least one), drawn at random block by block."""
    found: list[Index] = [np.empty(0, np.int64)]
    seen = given = 0
    for block in blocks(places):
        seen += block.stop - block.start
        share = max(1, round(density * seen)) - given
        found.append(np.sort(rng.choice(block.stop - block.start, share, replace=False)) + block.start)
        given += share
    return np.concatenate(found)


def length(runs: Runs) -> int:
    """Return the number of entries in all runs."""
    return sum(run.stop - run.start for run in runs)


def _bracket(vector: Vector, runs: Runs, k: int) -> tuple[int, int]:
    """Return patterns low and high: the k-th largest most likely lies in low <= p < high."""
    size = length(runs)
    if size <= BLOCK:
        return 1, BEYOND
    # The sample costs in proportion to its size, the candidates to size / sqrt(sample): least in sum at 2 / 3.
    drawn = round(size ** (2 / 3))
    share = k / size
    spread = DEVIATIONS * (1 + (drawn * share * (1 - share)) ** 0.5)
    first, last = max(0, int(drawn * share - spread)), min(drawn - 1, int(drawn * share + spread))
    sample = np.partition(_sample(vector, runs, drawn), [drawn - 1 - last, drawn - 1 - first])[::-1]
    high = int(sample[first]) + 1 if first > 0 else BEYOND
    low = max(1, int(sample[last])) if last < drawn - 1 else 1
    return low, max(low, high)


def _by_digits(vector: Vector, runs: Runs, k: int) -> Cut:
    """Find the k-th largest pattern by counting its upper half, then its lower half; k is at most the length."""
    upper, above = _find(vector.histogram(runs), k)
    digits = vector.digits(runs, upper)
    lower, higher = _find(digits, k - above)
    pattern = (upper << LOWER) + lower
    return _cut(pattern, k - above - higher, int(digits[lower])) if pattern else Cut(0)


def _find(counts: Index, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest, and how many lie above it."""
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, k))
    return len(counts) - 1 - place, int(from_above[place] - counts[len(counts) - 1 - place])


def _cut(found: int, ties: int, equal: int) -> Cut:
    """Keep `ties` of the `equal` entries at the k-th largest pattern; if that is all of them, none is a tie."""
    return Cut(found - 1) if ties == equal else Cut(found, ties)


def _sample(vector: Vector, runs: Runs, count: int) -> Patterns:
    """Return the patterns of one entry from each of `count` equal stretches, at random places, always the same.

    A fixed stride would see one column of a matrix only.
    """
    sizes = np.array([run.stop - run.start for run in runs])
    ends = np.cumsum(sizes)
    stretch = int(ends[-1]) / count
    places = ((np.arange(count) + np.random.default_rng(0).random(count)) * stretch).astype(np.int64)
    shifts = np.array([run.start for run in runs]) - (ends - sizes)
    index = places + shifts[np.searchsorted(ends[:-1], places, side="right")]
    return vector.take(index).view(np.uint32) & np.uint32(MAGNITUDE)
