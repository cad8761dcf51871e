"""Deal labelled examples to nodes, evenly or as unevenly as an experiment wants.

- `iid`: shuffled, equal parts.
- `dirichlet:ALPHA`: each class is cut by proportions drawn from Dirichlet(ALPHA); small is uneven (Hsu et al. 2019).
- `classes`: class c goes to node c mod N, so 10 classes on 5 nodes are 2 a node; with more nodes than
  classes, nodes n, n + C, n + 2C, ... share the examples of class n.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import ConfigError
from .task import Shard

Indices = NDArray[np.int64]
Deal = Callable[[Indices, int, np.random.Generator], list[Indices]]

STREAM = 1
"""Keeps the partition's random numbers apart from those of the batches."""


def split(labels: Indices, count: int, how: str, seed: int, minimum: int = 64) -> list[Indices]:
    """Return `count` disjoint ascending index arrays that cover all labels.

    Every part has at least `minimum` entries: who has too few is given random ones of the richest.
    The same arguments give the same parts everywhere. Raises ConfigError if there are too few examples.
    """
    if len(labels) < count * minimum:
        raise ConfigError(f"{len(labels)} examples are too few for {count} nodes with {minimum} each: use fewer nodes")
    rng = np.random.default_rng([seed, STREAM])
    parts = [rng.permutation(part) for part in _deal(how)(labels, count, rng)]
    return [np.sort(part) for part in _level(parts, minimum)]


def own_part(labels: Indices, shard: Shard, how: str, batch: int) -> Indices:
    """Return the indices of one node, two batches at least (less where half an even share is less)."""
    minimum = min(2 * batch, max(2, len(labels) // (2 * shard.count)))
    return split(labels, shard.count, how, shard.seed, minimum)[shard.index]


def _deal(how: str) -> Deal:
    name, colon, alpha = how.partition(":")
    match name, bool(colon):
        case "iid", False:
            return _iid
        case "classes", False:
            return _classes
        case "dirichlet", True:
            return _dirichlet(alpha)
    raise ConfigError(f"partition {how!r}: choose iid, classes or dirichlet:ALPHA, such as dirichlet:0.1")


def _iid(labels: Indices, count: int, rng: np.random.Generator) -> list[Indices]:
    return np.array_split(rng.permutation(len(labels)), count)


def _classes(labels: Indices, count: int, rng: np.random.Generator) -> list[Indices]:
    classes = np.unique(labels)
    takers = [range(rank % count, count, len(classes)) for rank in range(len(classes))]
    parts: list[list[Indices]] = [[] for _ in range(count)]
    for value, nodes in zip(classes, takers, strict=True):
        for node, piece in zip(nodes, np.array_split(_members(labels, value, rng), len(nodes)), strict=True):
            parts[node].append(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _dirichlet(text: str) -> Deal:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < math.inf:
        raise ConfigError(f"partition 'dirichlet:{text}': ALPHA is a positive number, such as 0.1")

    def deal(labels: Indices, count: int, rng: np.random.Generator) -> list[Indices]:
        pieces = []
        for value in np.unique(labels):
            members = _members(labels, value, rng)
            shares = np.cumsum(rng.dirichlet(np.full(count, alpha)))[:-1]
            pieces.append(np.split(members, np.rint(shares * len(members)).astype(np.int64)))
        return [np.concatenate(part) for part in zip(*pieces, strict=True)]

    return deal


def _members(labels: Indices, value: np.int64, rng: np.random.Generator) -> Indices:
    return rng.permutation(np.flatnonzero(labels == value))


def _level(parts: list[Indices], minimum: int) -> list[Indices]:
    parts = list(parts)
    while len(parts[poor := min(range(len(parts)), key=lambda node: len(parts[node]))]) < minimum:
        rich = max(range(len(parts)), key=lambda node: len(parts[node]))
        keep = max(minimum, len(parts[rich]) - (minimum - len(parts[poor])))
        parts[poor] = np.concatenate([parts[poor], parts[rich][keep:]])
        parts[rich] = parts[rich][:keep]
    return parts
