"""The correction: what a merge of published states adds to this node's own weights.

    tau_i <- tau_i + gamma * (M(P_i, {P_j}, weights) - P_i)

Computed tensor by tensor on the node's device, in integers as far as integers go, so that nothing beyond one
tensor's working set is needed. Normalisation buffers and 1-D tensors always take the weighted mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .merging import MergeMethod, Reference
from .merging.average import WeightedMean
from .state import State

DENSE_STEP = 0.7
"""In dense graphs many compressed corrections add up at once: they are damped by this."""
LOSSLESS = 0.999


@dataclass(frozen=True, slots=True)
class Contribution:
    """A neighbour's state, its weight in the merge (gamma included) and what seeds its random draws."""

    peer: str
    state: State
    weight: float
    seed: int = 0


def measured_gamma(mine: float, theirs: float, *, dense: bool) -> float:
    """Return an edge's step: min(1, omega_i, omega_j), damped in dense graphs unless nothing was lost.

    omega is the share of the residue's squared norm that a node's last frames removed. A fixed step of 1 looks
    fine for forty rounds and diverges by the hundredth.
    """
    omega = min(1.0, mine, theirs)
    return omega * DENSE_STEP if dense and omega < LOSSLESS else omega


def edge_seed(one: str, other: str, round_: int) -> int:
    """Return a seed both ends of an edge know: equal draws keep the mean of what the two exchange."""
    data = "\n".join([*sorted((one, other)), str(round_)]).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")


def edge_weight(mine: float, theirs: float, gamma: float) -> float:
    """Return the weight both ends use: the smaller offer times gamma, in the wire's float32."""
    return float(np.float32(min(np.float32(mine), np.float32(theirs)) * np.float32(gamma)))


def corrections(
    method: MergeMethod, own: State, others: Sequence[Contribution], reference: Reference, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Yield for every tensor its place in the flat vector and the correction to add there.

    Weights of `others` already hold gamma; own keeps the rest. Contributors are taken in the order of names.
    """
    ordered = sorted(others, key=lambda c: c.peer)
    if not ordered:
        return
    mean = WeightedMean()
    seeds = [c.seed for c in ordered]
    if method.scope == "global":
        yield from _whole(method, own, ordered, reference, device, seeds)
    for t, (spec, place) in enumerate(own.manifest.slices()):
        if spec.full or method.scope == "tensor":
            rule = mean if spec.full else method
            yield place, _merge(rule, own, ordered, reference if rule is method else "own", device, [t], seeds)


def distance(own: State, other: State, device: torch.device) -> float:
    """Return the Euclidean distance between two published states."""
    total = 0.0
    for t in range(len(own.manifest.tensors)):
        total += float(other.minus(own, t, device).double().square().sum())
    return float(np.sqrt(total))


def _whole(
    method: MergeMethod,
    own: State,
    others: Sequence[Contribution],
    reference: Reference,
    device: torch.device,
    seeds: Sequence[int],
) -> Iterator[tuple[slice, Tensor]]:
    sparse = [(t, place) for t, (spec, place) in enumerate(own.manifest.slices()) if not spec.full]
    merged = _merge(method, own, others, reference, device, [t for t, _ in sparse], seeds)
    at = 0
    for _, place in sparse:
        size = place.stop - place.start
        yield place, merged[at : at + size]
        at += size


def _merge(
    method: MergeMethod,
    own: State,
    others: Sequence[Contribution],
    reference: Reference,
    device: torch.device,
    tensors: Sequence[int],
    seeds: Sequence[int],
) -> Tensor:
    """Merge the given tensors as one flat vector and return what it adds to our own."""
    draws = [_seed(s, tensors[0] if tensors else 0) for s in seeds]
    weights = [c.weight for c in others]
    if reference == "own":
        deltas = [_cat([c.state.minus(own, t, device) for t in tensors]) for c in others]
        return method.merge(deltas, weights, reference="own", seeds=draws)
    mine = _cat([own.tensor(t, device) for t in tensors])
    deltas = [mine, *(_cat([c.state.tensor(t, device) for t in tensors]) for c in others)]
    merged = method.merge(deltas, [1 - sum(weights), *weights], reference="base", seeds=[_seed(0, 0), *draws])
    return merged - mine


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts)) if parts else torch.empty(0)


def _seed(chain: int, tensor: int) -> int:
    data = chain.to_bytes(8, "little") + tensor.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")
