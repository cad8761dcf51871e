"""Flat float32 rows of what is merged: read from memory or files in blocks, the base subtracted on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .blocks import alone
from .method import MergeMethod, Piece, Site

BLOCK: Final = 1 << 17
"""Entries converted at a time: what is read is still in the core's cache when the base is subtracted from it."""


class Source(Protocol):
    """A model that can be read tensor by tensor."""

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """Write a tensor minus `ground` (minus nothing without it) into a flat float32 row of its length.

        Raises ConfigError if an entry is not finite.
        """
        ...


class PartSource(Protocol):
    """A model of which parts of a tensor can be read."""

    def fill_part(self, name: str, start: int, row: Tensor, ground: Tensor | None) -> None:
        """Fill a row of any length with the entries from `start` on: see `Source`."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """A state dict as a source."""

    tensors: Mapping[str, Tensor]

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """See `Source`."""
        flat = self.tensors[name].detach().reshape(-1)
        fill(row, flat.split(BLOCK) if row.device.type == "cpu" else [flat], ground, repr(name))


def fill(row: Tensor, blocks: Iterable[Tensor], ground: Tensor | None, where: str) -> None:
    """Write blocks minus `ground` into a row, one after the other; raise ConfigError if an entry is not finite."""
    start = 0
    for block in blocks:
        part = row[start : start + len(block)]
        part.copy_(block)
        if ground is not None:
            part.sub_(ground[start : start + len(block)])
        # The sum is the cheaper look; large but finite entries may overflow it.
        if not part.sum().isfinite() and not part.isfinite().all():
            raise ConfigError(f"{where} has entries that are not finite: leave this model out, or the tensor")
        start += len(block)


class Rows:
    """Rows that are used again for tensor after tensor: fresh memory costs as much as the arithmetic."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self._rows: dict[int, Tensor] = {}

    def take(self, number: int, length: int) -> Tensor:
        """Return a row of this length; it is valid until the same number is taken again."""
        if number not in self._rows or len(self._rows[number]) < length:
            self._rows.pop(number, None)
            self._rows[number] = torch.empty(length, device=self.device)
        return self._rows[number][:length]

    def filled(self, number: int, source: Source, pieces: Sequence[Piece], ground: Tensor | None = None) -> Tensor:
        """Return a row that holds these tensors of a source, minus the ground."""
        row = self.take(number, sum(piece.size for piece in pieces))
        start = 0
        with alone():
            for piece in pieces:
                place = slice(start, start + piece.size)
                source.fill(piece.name, row[place], None if ground is None else ground[place])
                start += piece.size
        return row


def merge_rows(method: MergeMethod, sources: Sequence[Source], base: Source | None, site: Site, rows: Rows) -> Tensor:
    """Return the tensors of a site merged, flat, in float32: base + the method's task vector.

    The result may lie in one of the rows. Raises ConfigError if the method asks for a base and there is none.
    """
    if base is None:
        if "base" in method.needs:
            raise ConfigError(f"{type(method).__name__} compares models with their base: name one")
        return method.merge([rows.filled(i, source, site.pieces) for i, source in enumerate(sources, 1)], site)
    ground = rows.filled(0, base, site.pieces)
    deltas = [rows.filled(i, source, site.pieces, ground) for i, source in enumerate(sources, 1)]
    return ground.add_(method.merge(deltas, with_base(method, site, ground)))


def merge_parts(
    method: MergeMethod, sources: Sequence[PartSource], base: PartSource | None, site: Site, rows: Rows
) -> Tensor:
    """Return what `merge_rows` does, of one tensor and by an element-wise method: only the result is held whole."""
    [piece] = site.pieces
    result = rows.take(0, piece.size)
    with alone():
        for start in range(0, piece.size, BLOCK):
            part = result[start : start + BLOCK]
            if base is not None:
                base.fill_part(piece.name, start, part, None)
            deltas = [rows.take(number, len(part)) for number in range(1, len(sources) + 1)]
            for source, delta in zip(sources, deltas, strict=True):
                source.fill_part(piece.name, start, delta, None if base is None else part)
            merged = method.merge(deltas, replace(site, pieces=(Piece(piece.name, (len(part),)),), start=start))
            part.copy_(merged) if base is None else part.add_(merged)
    return result


def with_base(method: MergeMethod, site: Site, base: Tensor) -> Site:
    """Return the site with the base, if the method asks for it."""
    return replace(site, base=base) if "base" in method.needs else site
