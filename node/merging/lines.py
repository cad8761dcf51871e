"""LiNeS: shallow blocks move less than deep ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ...protocol.errors import ConfigError
from .method import Site, check_finite
from .steps import Step, scale_pieces

BLOCK = r"(?:^|\.)(?:layers?|blocks?|resblocks|h)\.(\d+)\."


@dataclass(frozen=True, slots=True)
class Lines(Step):
    r"""LiNeS (Wang et al., arXiv 2410.17146): block l of L is scaled by alpha + beta l / (L - 1), all else by alpha.

    The paper takes beta = 1 - alpha for a single task. For several: beta from a validation set, and alpha such that
    the merged vector scaled by it is as long (in the sum of magnitudes) as the mean of the task vectors, 1 / n if it
    is their sum. A single block counts as the first.

    block: finds the number in a tensor's name, by its first group; the first match counts, and numbers of L or more
    are no blocks. The official code takes any number between dots, "\.(\d+)\.", and in names with several the
    smallest.
    """

    blocks: int | None = None
    """L, the model's number of blocks; None: counted in the tensors' names."""
    alpha: float = 0.5
    beta: float = 0.5
    block: str = BLOCK

    def __post_init__(self) -> None:
        """Refuse a line without an end and a pattern without a number."""
        check_finite("alpha", self.alpha)
        check_finite("beta", self.beta)
        if self.blocks is not None and self.blocks < 1:
            raise ConfigError(f"blocks = {self.blocks}: give the model's number of blocks")
        try:
            groups = re.compile(self.block).groups
        except re.error as error:
            raise ConfigError(f"block = {self.block!r}: {error}") from error
        if groups < 1:
            raise ConfigError(f"block = {self.block!r}: put the block's number in a group, (\\d+)")

    def counted(self, names: Iterable[str]) -> Self:
        """Return the step for a model with tensors of these names: blocks that are not given are counted.

        Raises ConfigError if there are none.
        """
        if self.blocks is not None:
            return self
        last = max((number for name in names if (number := self.number(name)) is not None), default=None)
        if last is None:
            raise ConfigError(
                f"lines: no tensor's name has a block's number by block = {self.block!r}: give blocks=NUMBER, or the "
                "pattern of your names"
            )
        return replace(self, blocks=last + 1)

    def apply(self, merged: Tensor, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Scale every tensor by its block's factor."""
        return scale_pieces(merged, site, [self.factor(piece.name) for piece in site.pieces])

    def number(self, name: str) -> int | None:
        """Return the number of a tensor's block, or None."""
        found = re.search(self.block, name)
        return int(found[1]) if found else None

    def factor(self, name: str) -> float:
        """Return the factor of the tensor of this name."""
        if self.blocks is None:
            raise ConfigError("lines: nobody counted the model's blocks: give blocks=NUMBER")
        number = self.number(name)
        if number is None or number >= self.blocks:
            return self.alpha
        return self.alpha + self.beta * number / max(1, self.blocks - 1)
