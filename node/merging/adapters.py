"""Merging of low-rank adapters (LoRA, arXiv 2106.09685): on their factors where that is exact, or on dense deltas.

Names are those of PEFT's `combination_type`. An adapter here is that of one linear module; weights are one for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .method import MergeMethod, Piece, Site


@dataclass(frozen=True, slots=True)
class Adapter:
    """A module's update, scaling * B A. LoRA's scaling is alpha / rank, rank-stabilised LoRA's alpha / sqrt(rank)."""

    a: Tensor
    """(rank, inputs)."""
    b: Tensor
    """(outputs, rank)."""
    scaling: float = 1.0

    def __post_init__(self) -> None:
        """Refuse factors that are no pair."""
        if self.a.dim() != 2 or self.b.dim() != 2 or self.a.shape[0] != self.b.shape[1]:
            raise ConfigError(
                f"factors of shapes {tuple(self.a.shape)} and {tuple(self.b.shape)} are no pair: "
                "give A as (rank, inputs) and B as (outputs, rank)"
            )

    @property
    def delta(self) -> Tensor:
        """Return the dense update in float32, (outputs, inputs)."""
        return (self.b.float() @ self.a.float()).mul_(self.scaling)


def cat(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """Return the weighted sum of the updates, exactly: factors are stacked, ranks add up."""
    _check(adapters, weights)
    scaled = [adapter.b * (weight * adapter.scaling) for adapter, weight in zip(adapters, weights, strict=True)]
    return Adapter(torch.cat([adapter.a for adapter in adapters]), torch.cat(scaled, dim=1))


def linear(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """Return the sums of the factors, each times the root of weight times scaling: PEFT's default, of the same rank.

    Its update is not the sum of the updates: it also has the products of one adapter's B with another's A. The sign of
    a weight goes to A alone.
    """
    _check(adapters, weights)
    if len({adapter.a.shape for adapter in adapters}) > 1:
        raise ConfigError("adapters of different ranks have no sum of factors: use cat or svd")
    shares = [weight * adapter.scaling for adapter, weight in zip(adapters, weights, strict=True)]
    a = [adapter.a * math.copysign(math.sqrt(abs(s)), s) for adapter, s in zip(adapters, shares, strict=True)]
    b = [adapter.b * math.sqrt(abs(s)) for adapter, s in zip(adapters, shares, strict=True)]
    return Adapter(torch.stack(a).sum(0), torch.stack(b).sum(0))


def svd(adapters: Sequence[Adapter], weights: Sequence[float], rank: int) -> Adapter:
    """Return the best approximation of the weighted sum by this rank, found in float64 without making it dense."""
    whole = cat(adapters, weights)
    left, of_b = torch.linalg.qr(whole.b.double())
    right, of_a = torch.linalg.qr(whole.a.double().T)
    core = low_rank(of_b @ of_a.T, rank)
    return Adapter((core.a @ right.T).float(), (left @ core.b).float())


def low_rank(delta: Tensor, rank: int) -> Adapter:
    """Return the best approximation of a dense update by this rank; singular values go to B, as in PEFT."""
    if rank < 1:
        raise ConfigError(f"rank = {rank}: give a rank of at least 1")
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    return Adapter(v[:rank], u[:, :rank] * s[:rank])


def merge_dense(
    method: MergeMethod,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    *,
    name: str = "adapter",
    seeds: Sequence[int] = (),
) -> Tensor:
    """Return what a method merges of the dense updates, (outputs, inputs), relative to no adapter at all.

    PEFT's `<method>_svd` is `low_rank` of this: "ties_svd" of `Ties` with its variant "peft", "dare_linear_svd" of
    `DareLinear`, "magnitude_prune_svd" of the cut by magnitude, "svd" of task arithmetic. seeds are for methods that
    draw: one per adapter, and others for every module.
    """
    _check(adapters, weights)
    deltas = [adapter.delta for adapter in adapters]
    shape = tuple(deltas[0].shape)
    site = Site(tuple(weights), (Piece(name, shape),), tuple(seeds))
    return method.merge([delta.reshape(-1) for delta in deltas], site).view(shape)


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    """Raise ConfigError unless these are adapters of one module, with a weight each."""
    if not adapters:
        raise ConfigError("there are no adapters to merge: give one or more")
    if len(adapters) != len(weights):
        raise ConfigError(f"{len(adapters)} adapters, {len(weights)} weights: give one weight for each adapter")
    first = adapters[0]
    for adapter in adapters:
        if adapter.a.shape[1] != first.a.shape[1] or adapter.b.shape[0] != first.b.shape[0]:
            raise ConfigError("adapters of modules of different shapes do not merge: give those of one module")
