"""Work on long vectors: on the CPU in blocks that stay in a core's cache, on several threads where that gains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from ...protocol.parallel import ordered

Reader: TypeAlias = Callable[[slice], Tensor]
"""Returns a part of a vector as a rule wants it: perhaps a view, so nobody writes to it."""
Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = (1 << 15) - 64
"""Entries worked on at a time: some rows of a block fit a core's cache, and what steps make of one stays below the
128 KiB from which the C library gets fresh pages from the system each time."""
WIDE = 1 << 16
"""The same for work that makes nothing on the way."""
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
    threaded: bool = False
    """Whether steps are so long that threads gain: between short ones they wait for the interpreter, and two take as
    long as one."""

    def parts(self) -> list[slice]:
        """Return what is read, in order."""
        step = (self.step or BLOCK) if self.device.type == "cpu" else max(1, self.length)
        return [slice(start, min(start + step, self.length)) for start in range(0, self.length, step)]

    def assemble(self, part: Reader) -> Tensor:
        """Return the parts one after the other."""
        return self.filled(lambda where, result: result.copy_(part(where)))

    def filled(self, fill: Callable[[slice, Tensor], object]) -> Tensor:
        """Return a vector whose parts `fill` has written into the views of them that it is given."""
        result = torch.empty(self.length, device=self.device)
        self._each(lambda where: fill(where, result[where]))
        return result

    def total(self, part: Reader) -> Tensor:
        """Return the sum of what `part` makes of the parts, in double precision; a 0-d zero of none."""
        found = self._each(lambda where: part(where).double())
        return torch.stack(found).sum(0) if found else torch.zeros((), dtype=torch.float64, device=self.device)

    def _each(self, work: Callable[[slice], Result]) -> list[Result]:
        if self.threaded:
            return list(shared(work, self.parts()))
        with alone():
            return [work(part) for part in self.parts()]


def shared(work: Callable[[Item], Result], items: Sequence[Item], threads: int | None = None) -> Iterator[Result]:
    """Yield work(item) for each item in order, on as many threads as torch has unless told, each of them alone."""
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    if threads <= 1 or len(items) <= 1:
        yield from map(work, items)
        return

    def alone_at(item: Item) -> Result:
        torch.set_num_threads(1)  # of the thread that calls it
        return work(item)

    try:
        yield from ordered(alone_at, items, threads, TURN)
    finally:
        torch.set_num_threads(before)  # threads to come start with what was set last


@contextmanager
def alone() -> Iterator[None]:
    """Keep torch from sharing short steps among its threads: waking them takes longer than the step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_blocks(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Return function(*rows) for an element-wise function of flat float32 tensors of one length, block by block."""
    length = len(rows[0])
    if length <= BLOCK:
        return function(*rows)
    return Span(length, rows[0].device).assemble(lambda where: function(*(row[where] for row in rows)))
