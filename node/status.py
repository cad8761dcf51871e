"""What a node says about itself: one reply, read by the command line, dashboards, Prometheus and other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import psutil

from ..protocol import wire_pb2 as wire
from ..protocol.members import Member
from .participant import Participant

WATCH_S = 1.0
"""A watcher hears at least this often."""
POLL_S = 0.2


class StatusService:
    """The gRPC service `Status` of one node."""

    def __init__(self, node: Participant) -> None:
        self._node = node
        self._started = node.clock.now()
        self._process = psutil.Process()
        self.stopped = False
        self.warnings: list[str] = []
        """Standing warnings, such as what was found damaged at the start."""

    async def get(self, _request: wire.StatusRequest, _context: Any) -> wire.StatusReply:
        """Answer once."""
        return self.reply()

    async def watch(self, _request: wire.StatusRequest, _context: Any) -> AsyncIterator[wire.StatusReply]:
        """Answer at every change of round or phase, and at least now and then."""
        last, shown = (-1, ""), 0.0
        while not self.stopped:
            now = (self._node.round, self._node.progress.phase)
            if now != last or self._node.clock.now() - shown >= WATCH_S:
                last, shown = now, self._node.clock.now()
                yield self.reply()
            await asyncio.sleep(POLL_S)

    async def peers(self, _request: wire.StatusRequest, _context: Any) -> wire.PeersReply:
        """Answer with the peers alone."""
        return wire.PeersReply(peers=self._peers())

    def reply(self) -> wire.StatusReply:
        """Collect the status."""
        node, progress = self._node, self._node.progress
        return wire.StatusReply(
            node=node.name,
            network=node.config.network,
            run=node.config.run,
            address=node.membership.me.address,
            software=version("peermerge"),
            round=node.round,
            rounds=node.schedule.rounds,
            phase="degraded" if progress.degraded else progress.phase,
            epoch=node.log.epoch,
            version=node.log.version,
            metrics=progress.metrics,
            peers=self._peers(),
            uptime_s=node.clock.now() - self._started,
            memory_bytes=self._process.memory_info().rss,
            residue=progress.residue,
            omega=node.omega.value,
            gamma=progress.gamma,
            consensus_distance=progress.consensus,
            compression_ratio=4 * node.manifest.parameters / progress.frame_bytes if progress.frame_bytes else 0.0,
            bytes_in=node.peers.bytes_in,
            bytes_out=node.peers.bytes_out,
            deadline_s=node.gather.deadline.seconds,
            arrival_median_s=node.gather.deadline.median_s,
            arrival_spread_s=node.gather.deadline.spread_s,
            unpaid_weight=progress.unpaid_weight,
            warnings=self.all_warnings(),
            insecure=node.config.node.insecure,
            device=str(node.device),
            incarnation=node.identity.incarnation,
            parameters=node.manifest.parameters,
            members=node.membership.view().names,
            view=node.membership.view().id,
            roster=[member.message() for member in node.membership.everybody()],
            health=node.gossip.health,
            **{name: source.state for name, source in node.sources.items()},
            telemetry_dropped=node.telemetry_dropped(),
        )

    def all_warnings(self) -> list[str]:
        """Return everything a person should look at."""
        node = self._node
        found = [*self.warnings, *node.measuring.warnings, *(a.warning for a in node.alarms if a.warning)]
        found += [f"BUG: a handler failed: {failure!r}" for failure in getattr(node.transport, "failures", [])][-3:]
        found += [f"{address} cannot be merged with: {reason}" for address, reason in node.mismatches.items()]
        found += [f"{name}: unreachable" for name, source in node.sources.items() if source.state == "unreachable"]
        found += [f"DEGRADED: {reason}" for reason in node.progress.degraded.values()]
        if node.config.node.insecure:
            found.append("INSECURE: plain text beyond the loopback interface is allowed")
        return found

    def _peers(self) -> list[wire.PeerStatus]:
        return [self._peer(m) for m in self._node.membership.everybody() if m.name != self._node.name]

    def _peer(self, member: Member) -> wire.PeerStatus:
        node, name = self._node, member.name
        record = node.peers[name]
        replica = node.replicas.get(name)
        return wire.PeerStatus(
            name=name,
            address=member.address,
            state=member.state.name,
            epoch=replica.point.epoch if replica else 0,
            version=replica.point.version if replica else 0,
            round=replica.round if replica else -1,
            staleness=max(0, node.round - 1 - replica.round) if replica else 0,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
            round_trip_s=record.round_trip_s,
            consensus_distance=record.distance,
            weight=record.weight,
            merged=record.merged,
            skipped=record.skipped.total(),
            skipped_reasons=record.skipped,
            last_error=record.last_error,
            arrival_s=record.arrival_s,
            failures=record.backoff.failures,
            retry_s=record.backoff.left_s(node.clock.now()),
            waited_for=record.waited_for and member.state.live,
        )
