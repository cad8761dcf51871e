"""Merge models that lie in memory as state dicts: the methods without a network and without files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...protocol.errors import ConfigError
from .method import MergeMethod, Piece, Site
from .rows import InMemory, Rows, merge_rows

StateDict = Mapping[str, Tensor]


def merge_state_dicts(
    method: MergeMethod,
    models: Sequence[StateDict],
    *,
    base: StateDict | None = None,
    weights: Sequence[float] | None = None,
    statistics: Mapping[str, Sequence[StateDict]] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return base + the merged task vectors of `models`, tensor by tensor, in float32 with one cast at the end.

    Without a base the models are merged as they are, as if the base were zero. Weights are 1 each if not given. What
    is not of floating point comes from the base, or from the first model. statistics: for each kind, one mapping per
    model from a tensor's name to its values. Raises ConfigError if names or shapes differ or an entry is not finite.
    """
    first = base if base is not None else models[0]
    for model in models:
        check_alike(first, model)
    floating = sorted(name for name, tensor in first.items() if tensor.is_floating_point())
    groups = [floating] if method.scope == "global" else [[name] for name in floating]
    merged = {name: tensor for name, tensor in first.items() if name not in floating}
    for names in groups:
        site = Site(
            (1.0,) * len(models) if weights is None else tuple(weights),
            tuple(Piece(name, tuple(first[name].shape)) for name in names),
            tuple(draw(seed, i, names) for i in range(len(models))),
            statistics=dict(measured(statistics or {}, names)),
        )
        # Rows of their own for each: what was merged may lie in one of them.
        rows = Rows(first[names[0]].device if names else torch.device("cpu"))
        result = merge_rows(
            method, [InMemory(model) for model in models], None if base is None else InMemory(base), site, rows
        )
        for name, tensor in zip(names, site.split(result), strict=True):
            merged[name] = tensor.to(first[name].dtype)
    return {name: merged[name] for name in first}


def check_alike(first: StateDict, other: StateDict) -> None:
    """Raise ConfigError that names the first tensor which one model has and another lacks or shapes differently."""
    for name in first.keys() ^ other.keys():
        raise ConfigError(f"tensor {name!r} is missing in one of the models: merge models of one architecture")
    for name, tensor in first.items():
        if tensor.shape != other[name].shape:
            raise ConfigError(f"tensor {name!r} has shapes {tuple(tensor.shape)} and {tuple(other[name].shape)}")


def draw(seed: int, contributor: int, names: Sequence[str]) -> int:
    """Return the seed of one contributor's random draws for these tensors."""
    data = f"{seed}\n{contributor}\n{names[0] if names else ''}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")


def measured(
    statistics: Mapping[str, Sequence[StateDict]], names: Sequence[str]
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Yield what all models measured of a single tensor."""
    for kind, of_models in statistics.items():
        if len(names) == 1 and all(names[0] in of_model for of_model in of_models):
            yield kind, tuple(of_model[names[0]].to(torch.float32) for of_model in of_models)
