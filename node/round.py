"""A round, from top to bottom: train, keep up, publish, gather, guard, merge, repair, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from ..protocol.codec import Frame, encode
from ..protocol.errors import DegradedError, DivergedError, FrameError
from ..protocol.messages import Header
from .attachments import sweep
from .catch_up import keep_up, move_on
from .correct import measured_fresh, measured_gamma, wire_float
from .membership import View
from .merge import absorb, measure_merged, merge, repair
from .participant import SHORT, TRAIN_LOSS, Participant
from .schedule import Plan
from .sparsify import compress
from .tasks import TrainReport

SLICE = 50
"""Training steps between two chances to stop."""
PUBLISH, CHECKPOINT = "publish", "checkpoint"
"""What a disk may refuse; each counts as refused until it succeeds."""


async def run_round(node: Participant, cost_s: float = 0.0) -> None:
    """Run one whole round. `cost_s` is what one training step costs on a virtual clock."""
    planned = node.plan()
    node.events.emit("round_begin", round=planned.round)
    node.progress.phase = "training"
    reports = [
        await node.clock.work(partial(node.workload.train, steps), cost_s * steps)
        for steps in _slices(planned.local_steps)
    ]
    await exchange(node, planned, _sum(reports))


def _slices(steps: int) -> list[int]:
    """Cut training into slices, so that a stop never waits for a long round."""
    return [min(SLICE, steps - done) for done in range(0, steps, SLICE)]


def _sum(reports: list[TrainReport]) -> TrainReport:
    steps = sum(r.steps for r in reports)
    loss = sum(r.loss * r.steps for r in reports) / max(1, steps)
    return TrainReport(steps, sum(r.samples for r in reports), loss)


async def exchange(node: Participant, planned: Plan, report: TrainReport) -> None:
    """Everything of a round but the training: publish, gather, merge, evaluate, checkpoint."""
    started = time.perf_counter()
    view = node.membership.view()
    planned = await keep_up(node, planned, view)
    merged: dict[str, float] = {}
    if planned.merge:
        offers = node.offers(view, planned)
        node.progress.phase = "publishing"
        await publish(node, planned, view, offers, report)
        node.progress.phase = "gathering"
        await gather(node, planned, view, offers)
        node.progress.phase = "merging"
        merged = await node.clock.work(lambda: merge(node, planned, view, offers))
        await node.clock.work(lambda: repair(node))
    node.progress.exchange_s += time.perf_counter() - started
    node.progress.exchanges += 1
    await evaluate(node, planned, report, merged)
    move_on(node, planned, view)
    await checkpoint(node)


async def publish(
    node: Participant, planned: Plan, view: View, offers: Mapping[str, float], report: TrainReport
) -> None:
    """Make what changed since the last version the next one: durable first, then announced."""
    try:
        if node.service.contradicted >= node.log.epoch:
            # A peer holds a state of ours that this log does not contain: history was lost here.
            template = _template(node, planned, view, offers, report)
            await node.clock.work(lambda: node.log.restart(node.service.contradicted + 1, template))
            node.events.emit("log_epoch", round=planned.round, epoch=node.log.epoch)
        await node.clock.work(lambda: _append(node, planned, view, offers, report))
        node.progress.degraded.pop(PUBLISH, None)
        node.unpublished = None
    except DegradedError as error:
        _degrade(node, PUBLISH, planned.round, error)
        await node.clock.work(lambda: _advance(node))
        return
    except FrameError as error:
        # Our own delta: a state beyond 2^30 grid steps has left every reasonable range.
        raise DivergedError(f"{error}; leave merge.gamma = 'measured', or lower the learning rate") from error
    await node.service.announce(planned.round)


def _append(node: Participant, planned: Plan, view: View, offers: Mapping[str, float], report: TrainReport) -> None:
    """Compress tau - P and append it to the log, with what was measured beside it."""
    node.measure()
    node.drift.see(node.params.collect())
    own = node.log.state
    compressed = compress(node.params.beyond(own), node.manifest, own.floors, node.config.publish, node.rng)
    node.omega.see(compressed.omega)
    before = node.log.header.attachments if node.log.header else ()
    entry = node.log.append(compressed.delta, _template(node, planned, view, offers, report))
    sweep(node.storage, (*before, *entry.header.attachments))  # some peer may be about to read those before
    digest = entry.header.frame_sha256.hex()[:SHORT]
    place = {"epoch": entry.header.epoch, "version": entry.header.version, "view": view.id}
    node.events.emit("published", round=planned.round, sha256=digest, **place)
    node.progress.residue = compressed.residue
    node.progress.frame_bytes = len(entry.frame)
    node.alarms[0].see(compressed.residue)


def _advance(node: Participant) -> None:
    """Do with a copy of our state what publishing would have done: merging with one that stands still overshoots."""
    node.params.collect()
    own = node.own.copy()
    compressed = compress(node.params.beyond(own), node.manifest, own.floors, node.config.publish, node.rng)
    frame = encode(compressed.delta, node.manifest, from_version=0, to_version=1)
    with suppress(FrameError):  # beyond every reasonable range: publishing will say so
        own.apply(own.prepare(Frame.open(frame, node.manifest)))
        node.unpublished = own


def _template(node: Participant, planned: Plan, view: View, offers: Mapping[str, float], report: TrainReport) -> Header:
    """Return the header of this round's version but for the fields that are the log's own."""
    return Header(
        network=node.identity.network,
        run=node.identity.run,
        view=view.id,
        sender=node.name,
        incarnation=node.identity.incarnation,
        epoch=0,
        version=1,
        from_version=0,
        round=planned.round,
        base=node.identity.base,
        manifest=node.manifest.digest,
        chain=b"",
        state=0,
        frame_bytes=0,
        frame_sha256=b"",
        # Damped by us, not by the reader: views may differ, and both ends of an edge must step alike.
        omega=wire_float(measured_gamma(node.omega.value, dense=node.dense(view, planned))),
        fresh=wire_float(measured_fresh(node.drift.value, node.push.value)),
        edges=node.ledger.edges(offers),
        local_steps=report.steps,
        samples=report.samples,
        # Who counts no samples, as a user's own loop, knows no loss either.
        metrics={TRAIN_LOSS: round(report.loss, 6)} if report.samples else {},
        attachments=node.attachments,
    )


async def gather(node: Participant, planned: Plan, view: View, offers: Mapping[str, float]) -> None:
    """Bring the replicas of this round's neighbours up to date; a full merge takes strangers in one by one."""
    strangers = node.strangers(view, offers) if planned.everyone and node.linear else []
    near = {peer: view.address(peer) or "" for peer in offers if peer not in strangers}
    await node.gather.gather(near, planned.round)
    for peer in strangers:
        if node.gather.hurried:
            return
        await node.gather.pull(peer, view.address(peer) or "", planned.round, snapshot=True)
        await node.clock.work(partial(absorb, node, planned, view, {peer: offers[peer]}))


async def evaluate(node: Participant, planned: Plan, report: TrainReport, merged: Mapping[str, float]) -> None:
    """Measure the merged model where the configuration asks for it, and write the round's event."""
    every = node.config.round.evaluate_every
    last = planned.round + 1 == node.schedule.rounds
    live: dict[str, float] = {}
    if last or (every and (planned.round + 1) % every == 0):
        node.progress.phase = "evaluating"
        if last:
            live = await node.clock.work(node.workload.evaluate)
        node.progress.metrics = await node.clock.work(lambda: measure_merged(node))
    node.merged, node.absorbed_sum = [], node.absorbed_sum[:0]
    node.events.emit(
        "round",
        round=planned.round,
        version=node.log.version,
        epoch=node.log.epoch,
        steps=report.steps,
        train_loss=round(report.loss, 6),
        metrics=_rounded(node.progress.metrics),
        live=_rounded(live),
        merged={peer: round(weight, 6) for peer, weight in sorted(merged.items())},
        omega=round(node.omega.value, 6),
        gamma=round(node.progress.gamma, 6),
        residue=float(f"{node.progress.residue:.6g}"),
        consensus=float(f"{node.progress.consensus:.6g}"),
        frame_bytes=node.progress.frame_bytes,
        bytes_out=node.peers.bytes_out,
        bytes_in=node.peers.bytes_in,
    )


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}


async def checkpoint(node: Participant) -> None:
    """Save every so many rounds; a disk that refuses degrades the node and nothing else."""
    every = node.config.log.checkpoint_every
    if not every or node.round % every:
        return
    node.progress.phase = "checkpointing"
    try:
        await node.clock.work(node.save)
        node.events.emit("checkpoint", round=node.round, epoch=node.log.epoch, version=node.log.version)
        node.progress.degraded.pop(CHECKPOINT, None)
    except DegradedError as error:
        _degrade(node, CHECKPOINT, node.round, error)


def _degrade(node: Participant, what: str, round_: int, error: DegradedError) -> None:
    node.progress.degraded[what] = str(error)
    node.events.emit("degraded", round=round_, reason=str(error))
