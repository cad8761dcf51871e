"""From a base's tensor to the very bits of a fine-tune's: integers on a grid, and patches where those do not do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...protocol.delta import Delta
from ...protocol.limits import MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from ..merging.rows import BLOCK
from ..pieces import octave

PATCH_BITS: Final = 96
"""What a patch takes in the file, about; a finer grid costs every entry about one bit."""
MANTISSA: Final = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
"""Bits behind the leading one."""
BITS: Final = {2: torch.int16, 4: torch.int32}
"""Integers of the size of a type."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Entries to add to the base, and places where the fine-tune's own entries stand instead."""

    delta: Delta
    places: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Changed:
    """Entries of a block whose bits differ: flat places, values before and after, and their difference in float32."""

    index: npt.NDArray[np.int64]
    before: Tensor
    after: Tensor
    difference: npt.NDArray[np.float32]


def exact(base: Tensor, tuned: Tensor) -> Exact:
    """Return what makes `tuned` of `base`, bit for bit; both flat, of finite entries, `tuned` of a type in MANTISSA.

    Looks twice at all entries, a block at a time: to choose the grid, and to round to it.
    """
    kind = BITS[tuned.dtype.itemsize]
    exponent, count = _grid(base, tuned)
    index, levels, places = np.empty(count, np.int64), np.empty(count, np.int32), []
    used = 0
    for block in _changed(base, tuned):
        steps = np.rint(np.ldexp(block.difference.astype(np.float64), -exponent))
        rounded = np.where(np.abs(steps) <= MAX_LEVEL, steps, 0).astype(np.int32)
        added = torch.from_numpy((rounded * 2.0**exponent).astype(np.float32))
        back = (block.before.float() + added).to(tuned.dtype)
        hit = (back.view(kind) == block.after.view(kind)).numpy() & (rounded != 0)
        place = slice(used, used + int(hit.sum()))
        index[place], levels[place], used = block.index[hit], rounded[hit], place.stop
        places.append(block.index[~hit])
    delta = Delta(np.array([exponent], np.int8), index[:used], levels[:used])
    return Exact(delta, np.concatenate([np.empty(0, np.int64), *places]))


def _changed(base: Tensor, tuned: Tensor) -> Iterator[_Changed]:
    kind = BITS[tuned.dtype.itemsize]
    for start in range(0, len(base), BLOCK):
        old, new = base[start : start + BLOCK], tuned[start : start + BLOCK]
        index = (old.to(tuned.dtype).view(kind) != new.view(kind)).nonzero().squeeze(1)
        before, after = old[index], new[index]
        yield _Changed((index + start).numpy(), before, after, (after.float() - before.float()).numpy())


def _grid(base: Tensor, tuned: Tensor) -> tuple[int, int]:
    """Return the exponent at which entries and patches together take least, and the number of both.

    An entry comes out exact on a grid as fine as its last bit, or half of that where the base has still finer bits;
    if it becomes zero, on the grid of the base's last bit.
    """
    needing = np.zeros(MAX_EXPONENT - MIN_EXPONENT + 2, np.int64)
    largest = 0.0
    for block in _changed(base, tuned):
        before, after = block.before.float().numpy(), block.after.float().numpy()
        old, new = (_last_bit(values, MANTISSA[tuned.dtype]) for values in (before, after))
        needed = np.where(after == 0, old, np.where((before == 0) | (old >= new), new, new - 1))
        needing += np.bincount(
            np.clip(needed, MIN_EXPONENT - 1, MAX_EXPONENT) - (MIN_EXPONENT - 1), minlength=len(needing)
        )
        largest = max(largest, float(np.abs(block.difference).max(initial=0)))
    count = int(needing.sum())
    finest = max(MIN_EXPONENT, octave(largest) - 29) if largest else MIN_EXPONENT
    coarsest = max(finest, int(np.flatnonzero(needing).max(initial=0)) + MIN_EXPONENT - 1)
    exponents = np.arange(finest, coarsest + 1)
    patched = np.cumsum(needing)[exponents - MIN_EXPONENT]
    bits = count * (coarsest - exponents) + PATCH_BITS * patched
    return int(exponents[bits.argmin()]), count


def _last_bit(values: npt.NDArray[np.float32], mantissa: int) -> npt.NDArray[np.int32]:
    """Return the exponent of each value's last bit."""
    return np.frexp(values)[1] - 1 - mantissa
