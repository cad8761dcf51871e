"""The passes of `vectors.py` for a tensor on any device: what crosses to the host is chosen entries and counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .vectors import BINS, LOWER, MAGNITUDE, Cut, Floats, Index, Patterns, Runs, blocks

CHUNK: Final = 1 << 24
"""Entries worked on at a time: enough to keep a GPU busy, a few hundred MiB with what a pass holds of them."""


@dataclass(frozen=True, slots=True)
class TensorVector:
    """A contiguous float32 tensor of one dimension."""

    x: Tensor

    def take(self, where: slice | Index) -> Floats:
        """Return these entries."""
        place = where if isinstance(where, slice) else torch.from_numpy(where).to(self.x.device)
        taken: Floats = self.x[place].cpu().numpy()
        return taken

    def squares(self, where: slice) -> float:
        """Return the sum of squares, in double precision."""
        return sum(float(self.x[chunk].double().square().sum()) for chunk in blocks([where], CHUNK))

    def between(self, runs: Runs, low: int, high: int, most: int) -> tuple[int, Patterns | None]:
        """Count above and collect between, in one pass."""
        above, inside = 0, 0
        found = [torch.empty(0, dtype=torch.int32)]
        for _, p in self._patterns(runs):
            above += int((p >= high).sum())
            found.append(p[(p >= low) & (p < high)].cpu())
            inside += len(found[-1])
            if inside > most:
                return above, None
        return above, torch.cat(found).numpy().view(np.uint32)

    def histogram(self, runs: Runs) -> Index:
        """Count patterns by their upper 16 bits; every entry must be finite."""
        counts = np.zeros(BINS, np.int64)
        for _, p in self._patterns(runs):
            counts += torch.bincount(p >> LOWER, minlength=BINS).cpu().numpy()
        return counts

    def digits(self, runs: Runs, upper: int) -> Index:
        """Count the lower 16 bits of the patterns whose upper 16 bits are `upper`."""
        counts = np.zeros(1 << LOWER, np.int64)
        for _, p in self._patterns(runs):
            inside = p[p >> LOWER == upper] & ((1 << LOWER) - 1)
            counts += torch.bincount(inside, minlength=1 << LOWER).cpu().numpy()
        return counts

    def indexes(self, runs: Runs, cut: Cut) -> Index:
        """Compare chunk by chunk; ties are taken from the front."""
        found = [torch.empty(0, dtype=torch.int64)]
        ties = cut.ties
        for start, p in self._patterns(runs):
            kept = p > cut.below
            if ties:
                equal = torch.nonzero(p == cut.below).flatten()[:ties]
                kept[equal] = True
                ties -= len(equal)
            found.append((torch.nonzero(kept).flatten() + start).cpu())
        return torch.cat(found).numpy()

    def _patterns(self, runs: Runs) -> Iterator[tuple[int, Tensor]]:
        """Yield start and patterns, as int32, of chunk after chunk."""
        for chunk in blocks(runs, CHUNK):
            yield chunk.start, self.x[chunk].view(torch.int32) & MAGNITUDE
