"""How deep a tensor lies in its model, by its name: what gradients over depth go by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


def blocks(names: Iterable[str]) -> int | None:
    """Return the number of blocks in the longest numbered row of a model, None where there is none.

    >>> blocks(["embed.weight", "layers.0.w", "layers.1.w"])
    2
    """
    return max((int(match[1]) + 1 for name in names if (match := _BLOCK.search(name))), default=None)


def depths(names: Iterable[str]) -> dict[str, float]:
    """Return a share from 0 (first block) to 1 (last) for each tensor of a numbered block; others are left out.

    Blocks are told by the first number in a name, which counts along whatever stands before it:
    `model.layers.7.mlp.up_proj.weight` is in block 7 of `model.layers`. A single block lies at 1.

    >>> depths(["embed.weight", "layers.0.w", "layers.1.w", "layers.2.w"])
    {'layers.0.w': 0.0, 'layers.1.w': 0.5, 'layers.2.w': 1.0}
    """
    found = {name: (name[: match.start()], int(match[1])) for name in names if (match := _BLOCK.search(name))}
    last: dict[str, int] = {}
    for row, number in found.values():
        last[row] = max(number, last.get(row, 0))
    return {name: number / last[row] if last[row] else 1.0 for name, (row, number) in found.items()}


def along(values: Sequence[float], depth: float) -> float:
    """Return the value of a piecewise linear function of depth, given at evenly spaced points.

    >>> along([0.0, 1.0, 0.5], 0.75)
    0.75
    """
    place = depth * (len(values) - 1)
    left = min(int(place), len(values) - 1)
    share = place - left
    right = values[min(left + 1, len(values) - 1)]
    return values[left] if not share else (1 - share) * values[left] + share * right
