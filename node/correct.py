"""The correction: what a merge of published states adds to this node's own weights.

    tau_i <- tau_i + gamma * (M(P_i, {P_j}, weights) - P_i)

Computed tensor by tensor on the node's device, in integers as far as integers go, so that nothing beyond one
tensor's working set is needed. Normalisation buffers and 1-D tensors always take the weighted mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .merging import MergeMethod, Piece, Reference, Site
from .merging.average import WeightedMean
from .state import State
from .statistics import Measured

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
    statistics: Mapping[str, Measured] = field(default_factory=dict)
    """What the neighbour measured, by kind."""


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
    method: MergeMethod, own: Contribution, others: Sequence[Contribution], reference: Reference, base: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield for every tensor its number and the correction to add to our own state, flat, on the device of `base`.

    Own keeps the weight that `others` leave, whatever weight it comes with. Contributors are taken in the order of
    names: relative to the base own among them, so that nodes which merge the same states by the same weights merge the
    same bits; relative to oneself own first. There every difference is scaled by the steps of its edge; relative to
    the base the caller scales the result. base: the weights that states are relative to, in the flat index space.
    """
    if not others:
        return
    ordered = sorted(others, key=lambda c: c.peer)
    mean, specs = WeightedMean(), own.state.manifest.tensors
    if method.scope == "global":
        whole = [t for t, spec in enumerate(specs) if not spec.full]
        merged = _merge(method, own, ordered, reference, base, whole)
        yield from zip(whole, torch.split(merged, [specs[t].size for t in whole]), strict=True)
    for t, spec in enumerate(specs):
        if spec.full:
            yield t, _merge(mean, own, ordered, "own", base, [t])
        elif method.scope == "tensor":
            yield t, _merge(method, own, ordered, reference, base, [t])


def distance(own: State, other: State, device: torch.device) -> float:
    """Return the Euclidean distance between two published states."""
    total = 0.0
    for t in range(len(own.manifest.tensors)):
        total += float(other.minus(own, t, device).double().square().sum())
    return float(np.sqrt(total))


def _merge(
    method: MergeMethod,
    own: Contribution,
    others: Sequence[Contribution],
    reference: Reference,
    base: Tensor,
    tensors: Sequence[int],
) -> Tensor:
    """Merge the given tensors as one flat vector and return what it adds to our own."""
    device, specs = base.device, own.state.manifest.tensors
    contributors = [replace(own, weight=1 - sum(c.weight for c in others)), *others]
    if reference == "base":
        # As equals count 1 each: rounded, for own's share of 1 is not the very float that others have for it.
        shares = [replace(c, weight=round(len(contributors) * c.weight, 6)) for c in contributors]
        contributors = sorted(shares, key=lambda c: c.peer)
    site = Site(
        weights=tuple(c.weight for c in contributors),
        pieces=tuple(Piece(specs[t].name, specs[t].shape) for t in tensors),
        seeds=tuple(_seed(c.seed, tensors[0] if tensors else 0) for c in contributors),
        statistics=_measured(method, contributors, tensors, device),
    )
    seen = reference == "base" or method.sees_own or "base" in method.needs
    mine = _flat(own.state, tensors, device) if seen else torch.zeros(())
    if "base" in method.needs:
        starts = own.state.manifest.starts
        there = _cat([base[starts[t] : starts[t] + specs[t].size] for t in tensors])
        site = replace(site, base=there if reference == "base" else there + mine)
    if method.sees_own:
        site = replace(site, own=mine)
    if reference == "own":
        return method.correct([_cat([_stepped(own.state, c, t, device) for t in tensors]) for c in others], site)
    return method.merge([_flat(c.state, tensors, device) for c in contributors], site) - mine


def _measured(
    method: MergeMethod, contributors: Sequence[Contribution], tensors: Sequence[int], device: torch.device
) -> dict[str, tuple[Tensor, ...]]:
    """Return what all contributors measured of one tensor, of the kinds that the method needs."""
    found = {}
    for kind in method.needs - {"base"}:
        if len(tensors) == 1 and all(kind in c.statistics and tensors[0] in c.statistics[kind] for c in contributors):
            found[kind] = tuple(c.statistics[kind].tensor(tensors[0], device) for c in contributors)
    return found


def _stepped(own: State, other: Contribution, t: int, device: torch.device) -> Tensor:
    """Return tensor t of (theirs - own), scaled by the edge's steps; the mirror image of what the other end has."""
    difference = other.state.minus(own, t, device)
    if own.manifest.tensors[t].full or other.gamma == other.fresh:
        return difference.mul_(other.fresh)
    scaled = difference * other.gamma
    index = own.fresh_in(t, other.state, device)
    scaled[index] = difference[index] * other.fresh
    return scaled


def _flat(state: State, tensors: Sequence[int], device: torch.device) -> Tensor:
    return _cat([state.tensor(t, device) for t in tensors])


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts)) if parts else torch.empty(0)


def _seed(chain: int, tensor: int) -> int:
    data = chain.to_bytes(8, "little") + tensor.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")
