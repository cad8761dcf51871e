"""The merge of a round: who takes part with which steps, what it adds to tau, and the model that is served."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..protocol.errors import FrameError, Refusal
from ..protocol.messages import Header, Merged
from .correct import Contribution, corrections, distance, edge_seed, wire_float
from .guard import outliers, too_old
from .membership import View
from .merging.metric_weights import weights_by_loss, weights_by_steps
from .participant import TRAIN_LOSS, Participant
from .replicas import Replica
from .schedule import Plan
from .statistics import Measured
from .workload import reestimate


def merge(node: Participant, planned: Plan, view: View, offers: Mapping[str, float]) -> dict[str, float]:
    """Correct tau by what the neighbours' states say, with every refusal explained; return the weights used."""
    reference = node.config.merge.reference
    near = {peer: weight for peer, weight in offers.items() if not planned.everyone or node.replicas.get(peer)}
    node.merged = _contributions(node, planned, view, near)
    node.params.collect()
    pushed = 0.0
    moves = corrections(node.method, node.contribution, node.merged, reference, node.params.base)
    for t, correction in moves:
        full = node.manifest.tensors[t].full
        # Tensors published in full are merged relative to oneself: their edges' steps are in the correction.
        step = node.progress.gamma if reference == "base" and not full else 1.0
        node.params.tau[node.params.place(t)] += step * correction
        pushed += 0.0 if full else float(correction.double().square().sum())
    node.push.see(math.sqrt(pushed))
    node.absorbed_sum = node.debt if node.absorbed else node.debt[:0]
    if len(node.debt):
        node.params.tau += node.debt
        node.debt = node.debt[:0]
    node.params.write()
    used = node.absorbed | {c.peer: _used(node, c) for c in node.merged}
    node.absorbed = {}
    for peer in sorted(offers.keys() - used.keys() - node.skipped.keys()):
        _skip(node, peer, Refusal.DEADLINE)  # a stranger that a hurried node did not wait for
    # Of a state that nobody has seen nobody can pay us back.
    node.ledger.merged(node.log.epoch, node.log.version, used if node.unpublished is None else {})
    node.events.emit(
        "merge",
        round=planned.round,
        view=view.id,
        offered=sorted(offers),
        merged=[[peer, m.epoch, m.version, round(m.weight, 6)] for peer, m in sorted(used.items())],
        skipped=node.skipped,
        # One pass; a weight that is not finite makes the sum so.
        finite=math.isfinite(float(node.params.tau.sum())),
    )
    node.skipped = {}
    for peer in node.strangers(view, offers) if planned.everyone else ():
        node.replicas.forget(peer)
    # Who is no partner and comes back after more rounds than a tail holds needs a snapshot all the same.
    node.replicas.tidy(node.partners(view), planned.round - node.config.log.retention)
    return {peer: merged.weight for peer, merged in used.items()}


def _used(node: Participant, contribution: Contribution) -> Merged:
    """Return what the ledger and the next header say of a contribution."""
    point = _replica(node, contribution.peer).point
    return Merged(point.epoch, point.version, contribution.weight, contribution.gamma, contribution.fresh)


def _contributions(node: Participant, planned: Plan, view: View, offers: Mapping[str, float]) -> list[Contribution]:
    """Choose whose states take part, with the weight and the steps that both ends of each edge use."""
    fits: dict[str, Replica] = {}
    for peer, offered in offers.items():
        node.peers[peer].weight = offered
        if (reason := _unfit(node, planned, view, peer)) is None:
            fits[peer] = _replica(node, peer)
        else:
            _skip(node, peer, reason)
    distances = {peer: distance(node.own, replica.state, node.device) for peer, replica in fits.items()}
    far = outliers(distances, node.config.guard.norm_gate)
    chosen = [
        Contribution(
            peer,
            replica.state,
            wire_float(min(offers[peer], _offered(node, replica))),
            *_steps(node, planned, replica),
            # An edge's two ends draw alike; relative to the base everybody draws alike of one contributor.
            edge_seed(node.name if node.config.merge.reference == "own" else peer, peer, planned.round),
            {kind: found for kind, found in replica.statistics.items() if isinstance(found, Measured)},
        )
        for peer, replica in fits.items()
        if peer not in far
    ]
    chosen = _weighed(node, chosen)
    _account(node, distances, far, chosen)
    return chosen


def _skip(node: Participant, peer: str, reason: Refusal) -> None:
    node.peers[peer].skip(reason)
    node.skipped[peer] = reason.name


def _weighed(node: Participant, chosen: list[Contribution]) -> list[Contribution]:
    """Weigh the contributions to a merge relative to the base by what all report, own included, where that is asked."""
    if node.config.merge.weights == "mixing" or not chosen or node.log.header is None:
        return chosen
    headers = [node.log.header, *(_header(node, c.peer) for c in chosen)]
    match node.config.merge.weights:
        case "loss":
            # Who reports no loss is taken for the worst of all.
            losses = [header.metrics.get(TRAIN_LOSS, math.inf) for header in headers]
            worst = max((loss for loss in losses if math.isfinite(loss)), default=0.0)
            weights = weights_by_loss([min(loss, worst) for loss in losses])
        case "steps":
            weights = weights_by_steps([header.local_steps for header in headers])
        case "samples":
            weights = weights_by_steps([header.samples for header in headers])
    # Not rounded to the wire's float32: own keeps what others leave, which must be what they have for it.
    return [replace(c, weight=weight) for c, weight in zip(chosen, weights[1:], strict=True)]


def _header(node: Participant, peer: str) -> Header:
    replica = _replica(node, peer)
    if replica.header is None:
        raise FrameError(Refusal.OUT_OF_SEQUENCE, peer)
    return replica.header


def _account(
    node: Participant, distances: Mapping[str, float], far: Collection[str], chosen: Sequence[Contribution]
) -> None:
    """Note in status and ledger what was chosen and what was not."""
    for peer, d in distances.items():
        node.peers[peer].distance = d
    taken = {c.peer for c in chosen}
    for peer in distances.keys() - taken:
        _skip(node, peer, Refusal.NORM_OUTLIER)
    for peer in taken:
        node.peers[peer].merged += 1
    # What an outlier merged of us is not owed back: we chose not to merge it.
    node.ledger.close(node.log.epoch, node.log.version, far)
    node.progress.gamma = min((c.gamma for c in chosen), default=0.0)
    node.progress.consensus = math.sqrt(sum(d * d for d in distances.values()) / max(1, len(distances)))
    node.alarms[1].see(node.progress.consensus)


def _offered(node: Participant, replica: Replica) -> float:
    """Return the weight that a neighbour's newest header offers us."""
    edges = replica.header.edges if replica.header else ()
    return next((e.weight for e in edges if e.peer == node.name), 0.0)


def _unfit(node: Participant, planned: Plan, view: View, peer: str) -> Refusal | None:
    """Say why a neighbour cannot take part in this round, if it cannot."""
    replica, rounds = node.replicas.get(peer), node.config.round
    if replica is None or replica.header is None:
        return Refusal.TRANSPORT
    old = too_old(planned.round, replica.round, synchronous=rounds.mode == "sync", staleness=rounds.staleness)
    if not old and rounds.mode == "sync" and node.config.membership.gossip and replica.header.view != view.id:
        return Refusal.OTHER_VIEW  # its graph is another than ours: two views never mix in one round
    if old or not _offered(node, replica):
        return old or Refusal.UNKNOWN_SENDER
    if lacking := replica.lacks(node.measuring.kinds):
        return lacking
    # Where misses are paid back, merging the very same states twice would be too much.
    theirs = (replica.point.epoch, replica.point.version)
    mirrored = node.mirrored and node.unpublished is None
    again = mirrored and node.ledger.settled_with(peer, node.log.epoch, node.log.version, theirs)
    if again:
        return Refusal.REPLAYED
    ahead = mirrored and not planned.everyone and node.ledger.one_sided(peer, node.peers[peer].served)
    return Refusal.ONE_SIDED if ahead else None


def _steps(node: Participant, planned: Plan, replica: Replica) -> tuple[float, float]:
    """Return an edge's steps for entries at rest and for fresh ones.

    Measured, unless an expert fixed them or this is the one merge of a schedule.
    """
    if node.config.merge.gamma != "measured":
        return node.config.merge.gamma, node.config.merge.gamma
    if planned.everyone or node.schedule.merge == "final" or replica.header is None:
        return 1.0, 1.0
    mine, theirs = node.log.header, replica.header
    gamma = min(mine.omega, theirs.omega) if mine else 0.0
    return wire_float(gamma), wire_float(max(gamma, min(mine.fresh if mine else 0.0, theirs.fresh)))


def _replica(node: Participant, peer: str) -> Replica:
    replica = node.replicas.get(peer)
    if replica is None:
        raise FrameError(Refusal.OUT_OF_SEQUENCE, peer)
    return replica


def absorb(node: Participant, planned: Plan, view: View, offer: Mapping[str, float]) -> None:
    """Add a stranger's contribution to the next correction and let its replica go: no replica is kept of it."""
    for contribution in _contributions(node, planned, view, offer):
        node.owe(node.own, contribution)
        node.absorbed[contribution.peer] = _used(node, contribution)
    for peer in offer:
        node.replicas.forget(peer)


def measure_merged(node: Participant) -> dict[str, float]:
    """Evaluate the merge of published states, M(P) with full steps: what this node would serve.

    Live weights are that plus what the node has not published yet, which is private progress; with lossless
    frames the two are one. The live weights come back bit for bit.
    """
    if not node.merged and not len(node.absorbed_sum):
        return node.workload.evaluate()
    full = [replace(c, gamma=1.0, fresh=1.0) for c in node.merged]
    kept = node.config.merge.statistics == "reestimate"
    _show(node, {t: 0.0 for t, spec in enumerate(node.manifest.tensors) if not (kept and spec.full)}.items())
    moves = corrections(node.method, node.contribution, full, node.config.merge.reference, node.params.base)
    _show(node, ((t, move) for t, move in moves if not (kept and node.manifest.tensors[t].full)))
    try:
        return node.workload.evaluate()
    finally:
        node.params.write()


def _show(node: Participant, moves: Iterable[tuple[int, Tensor | float]]) -> None:
    """Make live tensors the published ones plus a move each, and what strangers added."""
    for t, move in moves:
        strangers = node.absorbed_sum[node.params.place(t)] if len(node.absorbed_sum) else 0.0
        node.params.show(t, node.own.tensor(t, node.device) + move + strangers)


def repair(node: Participant) -> None:
    """Re-estimate normalisation statistics on local data, and forget optimizer state, where that is chosen."""
    if node.config.merge.statistics == "reestimate":
        reestimate(node.workload.model, node.workload.calibration(), node.device)
        node.params.collect()
    if node.config.merge.optimizer == "reset":
        node.workload.reset_optimizer()
