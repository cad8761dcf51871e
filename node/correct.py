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
HEADROOM = 3.0


@dataclass(frozen=True, slots=True)
class Contribution:
    """A neighbour's state, its weight in the merge, the steps of its edge, and what seeds its random draws."""

    peer: str
    state: State
    weight: float
    gamma: float = 1.0
    """Step for entries at rest."""
    fresh: float = 1.0
    """Step for entries that either side's newest frame brought, and for tensors sent in full."""
    seed: int = 0


def measured_gamma(omega: float, *, dense: bool) -> float:
    """Return the step a node offers its edges, which take the smaller of two; damped in dense graphs.

    omega is the share of the residue's squared norm that the node's last frames removed; frames that lose nothing
    are not damped. A fixed step of 1 looks fine for forty rounds and diverges by the hundredth.
    """
    return omega * DENSE_STEP if dense and omega < LOSSLESS else min(1.0, omega)


def measured_fresh(drift: float, push: float) -> float:
    """Return a node's step for fresh entries: corrections may be HEADROOM times what training moves, up to 1.

    Fresh entries are known to within the threshold of selection, so a full step is right for them while training
    moves the nodes apart. Where corrections outgrow that they feed on themselves (in dense graphs, without
    training), and the step falls back to the one for entries at rest.
    """
    if not drift:
        return 0.0
    return min(1.0, HEADROOM * drift / push) if push else 1.0


def edge_seed(one: str, other: str, round_: int) -> int:
    """Return a seed both ends of an edge know: equal draws keep the mean of what the two exchange."""
    data = "\n".join([*sorted((one, other)), str(round_)]).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")


def wire_float(value: float) -> float:
    """Round to the wire's float32: both ends of an edge must use the same numbers."""
    return float(np.float32(value))


def corrections(
    method: MergeMethod, own: State, others: Sequence[Contribution], reference: Reference, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield for every tensor its number and the correction to add to it, flat.

    Own keeps the weight that `others` leave. Contributors are taken in the order of names. Relative to oneself
    every difference is scaled by the steps of its edge; relative to the base the caller scales the result.
    """
    ordered = sorted(others, key=lambda c: c.peer)
    if not ordered:
        return
    mean = WeightedMean()
    seeds = [c.seed for c in ordered]
    if method.scope == "global":
        yield from _whole(method, own, ordered, reference, device, seeds)
    for t, spec in enumerate(own.manifest.tensors):
        if spec.full or method.scope == "tensor":
            rule = mean if spec.full else method
            yield t, _merge(rule, own, ordered, reference if rule is method else "own", device, [t], seeds)


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
) -> Iterator[tuple[int, Tensor]]:
    sparse = [t for t, spec in enumerate(own.manifest.tensors) if not spec.full]
    merged = _merge(method, own, others, reference, device, sparse, seeds)
    sizes = [own.manifest.tensors[t].size for t in sparse]
    yield from zip(sparse, torch.split(merged, sizes), strict=True)


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
        deltas = [_cat([_stepped(own, c, t, device) for t in tensors]) for c in others]
        return method.merge(deltas, weights, reference="own", seeds=draws)
    mine = _cat([own.tensor(t, device) for t in tensors])
    deltas = [mine, *(_cat([c.state.tensor(t, device) for t in tensors]) for c in others)]
    merged = method.merge(deltas, [1 - sum(weights), *weights], reference="base", seeds=[_seed(0, 0), *draws])
    return merged - mine


def _stepped(own: State, other: Contribution, t: int, device: torch.device) -> Tensor:
    """Return tensor t of (theirs - own), scaled by the edge's steps; the mirror image of what the other end has."""
    difference = other.state.minus(own, t, device)
    if own.manifest.tensors[t].full or other.gamma == other.fresh:
        return difference.mul_(other.fresh)
    scaled = difference * other.gamma
    for state in (own, other.state):
        index = state.fresh_in(t, device)
        scaled[index] = difference[index] * other.fresh
    return scaled


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts)) if parts else torch.empty(0)


def _seed(chain: int, tensor: int) -> int:
    data = chain.to_bytes(8, "little") + tensor.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")
