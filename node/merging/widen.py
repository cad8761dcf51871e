"""WIDEN: contributors count in a column by how far its length and its direction have moved."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .matrices import EMBEDDING, check_pattern
from .method import MergeMethod, Piece, Site, check_finite


@dataclass(frozen=True, slots=True)
class Widen(MergeMethod):
    """WIDEN (Yu et al., arXiv 2408.03092): sum_i w_i (m_i + c_i) / 2 * d_i, with scores m_i and c_i of every column.

    The columns of each contributor are ranked by how far their norms (m_i), and by how far their directions (c_i, 1 -
    cosine) are from the base's. Significant is a column by its rank, as a share of the number of columns. Its score
    is the softmax of that over contributors; or `calibration` where it is above `ratio` times the contributor's mean.

    Columns are what multiplies one input: of embedding tables (names that the pattern `embedding` finds) the rows; of
    convolutions, what the first dimension leaves. Tensors of one dimension have one score for each entry, by |d_i|
    itself. The direction of a column of zeros is infinitely far from any other.
    """

    ratio: float = 1.0
    calibration: float = 1.0
    embedding: str = EMBEDDING

    needs: ClassVar[frozenset[str]] = frozenset({"base"})

    def __post_init__(self) -> None:
        """Refuse what is no number or no pattern."""
        check_finite("ratio", self.ratio)
        check_finite("calibration", self.calibration)
        check_pattern("embedding", self.embedding)

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the sum by scores."""
        if not deltas:
            return torch.zeros(())
        if site.base is None:
            raise ValueError("WIDEN compares columns with the base's")
        piece = site.pieces[0]
        rows = [self._columns(delta, piece) for delta in deltas]
        scores = self._scores(rows, self._columns(site.base, piece))
        total = torch.zeros_like(deltas[0])
        merged = self._columns(total, piece)
        for row, score, weight in zip(rows, scores, site.weights, strict=True):
            merged.addcmul_(row, score, value=weight)
        return total

    def _columns(self, flat: Tensor, piece: Piece) -> Tensor:
        """Return a view whose last dimension counts the columns."""
        if len(piece.shape) < 2:
            return flat
        matrix = flat.view(piece.shape[0], math.prod(piece.shape[1:]))
        return matrix.mT if re.search(self.embedding, piece.name) else matrix

    def _scores(self, deltas: Sequence[Tensor], base: Tensor) -> Tensor:
        if base.dim() < 2:
            return self._scored(torch.stack(list(deltas)).abs())
        moved = [difference(base + delta, base) for delta in deltas]
        lengths, directions = (torch.stack(kind) for kind in zip(*moved, strict=True))
        return (self._scored(ranks(lengths)) + self._scored(ranks(directions))) / 2

    def _scored(self, significance: Tensor) -> Tensor:
        above = significance > self.ratio * significance.mean(1, keepdim=True)
        return torch.where(above, self.calibration, significance.softmax(0))


def ranks(rows: Tensor) -> Tensor:
    """Return the place of each entry among those of its row in ascending order, as a share of their number."""
    return rows.argsort(dim=1, stable=True).argsort(1) / max(1, rows.shape[1])


def difference(own: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the columns' norms and directions are from the base's; infinite for a direction of zeros."""
    own_norm, base_norm = own.norm(dim=0), base.norm(dim=0)
    cosine = cosine_similarity(own / own_norm, base / base_norm, dim=0)
    return (own_norm - base_norm).abs(), (1 - cosine).nan_to_num(nan=math.inf)
