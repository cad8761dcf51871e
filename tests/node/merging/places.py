"""Deltas and sites for tests of merge methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod, Piece, Reference, Site


def draw(count: int, shape: int | tuple[int, ...], seed: int) -> list[Tensor]:
    """Draw flat deltas with zeros, as sparse ones have, and some equal magnitudes."""
    random = torch.Generator().manual_seed(seed)
    length = math.prod(shape) if isinstance(shape, tuple) else shape
    return [torch.randint(-4, 5, (length,), generator=random).float() * 0.25 for _ in range(count)]


def site(
    method: MergeMethod,
    weights: Sequence[float],
    shape: tuple[int, ...],
    *,
    seeds: Sequence[int] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Site:
    """Return a place for one tensor, with a base drawn from `seed` and with whatever statistics the method needs.

    What a contributor measured is drawn from its seed.
    """
    random, size = torch.Generator().manual_seed(seed), math.prod(shape)
    chosen = tuple(range(len(weights)) if seeds is None else seeds)
    return Site(
        weights=tuple(weights),
        pieces=(Piece("model.layers.0.weight", shape),),
        seeds=chosen,
        base=torch.randn(size, generator=random).to(device),
        statistics={
            kind: tuple(measured(kind, shape, one).to(device) for one in chosen) for kind in method.needs - {"base"}
        },
    )


def measured(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return a contributor's statistics of one tensor."""
    random = torch.Generator().manual_seed(seed)
    if kind != "gram":
        return torch.rand(math.prod(shape), generator=random)
    inputs = shape[-1] if shape else 1
    features = torch.randn(2 * inputs, inputs, generator=random)
    return features.T @ features / max(1, len(features))


def merged(
    method: MergeMethod,
    deltas: Sequence[Tensor],
    reference: Reference,
    *,
    shape: tuple[int, ...] | None = None,
    seeds: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Merge as equals, or by these weights; relative to oneself own keeps as much as a neighbour, or the rest.

    Seeds and weights are one for each delta.
    """
    shape = shape if shape is not None else (len(deltas[0]) if deltas else 0,)
    chosen = list(weights) if weights is not None else None
    device = deltas[0].device if deltas else torch.device("cpu")
    if reference == "base":
        at = site(method, chosen or [1.0] * len(deltas), shape, seeds=seeds, device=device)
        return method.merge(deltas, at)
    count = len(deltas) + 1
    chosen = chosen if chosen is not None else [1 / count] * len(deltas)
    drawn = None if seeds is None else [0, *seeds]
    at = site(method, [1 - sum(chosen), *chosen], shape, seeds=drawn, device=device)
    return method.correct(deltas, at)
