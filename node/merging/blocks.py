"""Work on long vectors: on the CPU in blocks that stay in a core's cache, on several threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from ...protocol.parallel import ordered

Reader: TypeAlias = Callable[[slice], Tensor]
"""Returns a part of a vector as a rule wants it: perhaps a view, so nobody writes to it."""
Result = TypeVar("Result")

BLOCK = (1 << 15) - 64
"""Entries worked on at a time: some rows of a block fit a core's cache, and torch starts no threads of its own, as it
does from 2^15 on."""
TURN = 64
"""Blocks that a thread takes at a time, at most."""


@dataclass(frozen=True, slots=True)
class Span:
    """The entries of flat vectors, and how many of them are read at a time; on other devices than the CPU all.

    Passes over memory, not arithmetic, are what merging takes: so each vector is read from memory once, however many
    steps are taken with what was read.
    """

    length: int
    device: torch.device
    step: int | None = None
    """BLOCK if not given."""

    def parts(self) -> list[slice]:
        """Return what is read, in order."""
        step = (self.step or BLOCK) if self.device.type == "cpu" else max(1, self.length)
        return [slice(start, min(start + step, self.length)) for start in range(0, self.length, step)]

    def assemble(self, part: Reader) -> Tensor:
        """Return the parts one after the other."""
        result = torch.empty(self.length, device=self.device)

        def work(where: slice) -> None:
            result[where] = part(where)

        self._each(work)
        return result

    def total(self, part: Reader) -> Tensor:
        """Return the sum of what `part` makes of the parts, in double precision; a 0-d zero of none."""
        found = self._each(lambda where: part(where).double())
        return torch.stack(found).sum(0) if found else torch.zeros((), dtype=torch.float64, device=self.device)

    def _each(self, work: Callable[[slice], Result]) -> list[Result]:
        return list(ordered(work, self.parts(), torch.get_num_threads(), TURN))


def in_blocks(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Return function(*rows) for an element-wise function of flat float32 tensors of one length, block by block."""
    length = len(rows[0])
    if length <= BLOCK:
        return function(*rows)
    return Span(length, rows[0].device).assemble(lambda where: function(*(row[where] for row in rows)))
