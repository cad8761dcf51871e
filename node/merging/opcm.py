"""OPCM: models that arrive one after the other, each projected off what was merged before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .average import divisor
from .linalg import spectrum
from .matrices import EMBEDDING, check_pattern, is_linear
from .method import MergeMethod, Piece, Scope, Site, check_share


@dataclass(frozen=True, slots=True)
class Opcm(MergeMethod):
    """Orthogonal Projection-based Continual Merging (Tang et al., arXiv 2501.09522): the order matters.

    The first delta is the merged vector tau. Of every later one, d, what lies along tau is removed: with tau =
    U diag(S) V^T, entry by entry of U^T d V, the diagonal and the leading block, up to where the singular values add
    up to more than the share `alpha` of their sum. tau then becomes gain * tau + d, scaled to the mean norm of
    all deltas so far (over all tensors: hence the scope).

    Only weights of linear layers are projected: matrices whose names the pattern `skip` does not find, which leaves
    out embedding tables. All else is added. Weights count relative to their mean: equal ones change nothing.
    """

    alpha: float = 0.5
    skip: str = EMBEDDING

    def __post_init__(self) -> None:
        """Refuse a share outside of 0 and 1 and what is no pattern."""
        check_share("alpha", self.alpha, zero=True)
        check_pattern("skip", self.skip)

    @property
    def scope(self) -> Scope:
        """Ask for all tensors at once, for their common norm."""
        return "global"

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return what is merged after the last arrival."""
        state = OpcmState(self, site.pieces)
        by = divisor(site.weights) / max(1, len(site.weights))
        for delta, weight in zip(deltas, site.weights, strict=True):
            state = state.arrive(delta * (weight / by))
        return state.merged


@dataclass(frozen=True, slots=True)
class OpcmState:
    """What a node keeps between arrivals: one vector and two numbers, however many have come.

    An update of somebody who came before arrives as the difference to what came then: nothing can be taken back.
    """

    rule: Opcm
    pieces: tuple[Piece, ...]
    merged: Tensor = field(default_factory=lambda: torch.zeros(()))
    """The merged task vector; a 0-d zero before the first arrival."""
    gain: Tensor = field(default_factory=lambda: torch.ones(()))
    """What `merged` was divided by when it was scaled to the mean norm."""
    norms: Tensor = field(default_factory=lambda: torch.zeros(()))
    """The sum of the norms of all that arrived."""
    count: int = 0

    def arrive(self, delta: Tensor) -> OpcmState:
        """Return the state after a flat delta, all pieces one after the other, has been merged."""
        count, norms = self.count + 1, self.norms + delta.norm()
        total = self.gain * self.merged + (self._projected(delta) if self.count else delta)
        gain = total.norm() * count / norms.where(norms > 0, 1.0)
        merged = total / gain.where(gain > 0, 1.0)
        return replace(self, merged=merged, gain=gain, norms=norms, count=count)

    def _projected(self, delta: Tensor) -> Tensor:
        """Return the delta without what lies along the merged vector in the weights of linear layers."""
        sizes = [piece.size for piece in self.pieces]
        parts = zip(self.pieces, delta.split(sizes), self.merged.split(sizes), strict=True)
        return torch.cat(
            [
                project(new.view(piece.shape), old.view(piece.shape), self.rule.alpha).reshape(-1)
                if is_linear(piece, self.rule.skip)
                else new
                for piece, new, old in parts
            ]
        )


def project(delta: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """Return the delta without its part along the singular directions of `merged`, as `Opcm` says."""
    u, s, vh = spectrum(merged)
    index = torch.arange(len(s), device=s.device)
    leading = index < (s.cumsum(0) > alpha * s.sum()).int().argmax()
    removed = (leading[:, None] & leading) | (index[:, None] == index)
    exact = delta.double()
    return (exact - u @ ((u.mT @ exact @ vh.mT) * removed) @ vh).to(torch.float32)
