"""What the coordinator counts, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..protocol.prometheus import Family
from .roster import Roster
from .service import CoordinatorService

COUNTERS = {
    "joins": "Newcomers taken up",
    "heartbeats": "Heartbeats taken up",
    "leaves": "Members who said that they leave",
    "expiries": "Members who were silent for too long",
    "disk_errors": "Writes that the disk refused",
}
MESH_GAUGES = {"members": "Members of a run", "epoch": "Epoch of a run's view"}


class CoordinatorCollector(Collector):
    """Turns the roster into metric families whenever it is scraped, by a thread of its own."""

    def __init__(self, roster: Roster, service: CoordinatorService) -> None:
        self._roster = roster
        self._service = service

    def collect(self) -> Iterator[Family]:
        """Yield the families."""
        yield GaugeMetricFamily("peermerge_coordinator_uptime_s", "Seconds since the start", self._service.uptime_s)
        yield GaugeMetricFamily("peermerge_coordinator_watchers", "Streams that are open", self._service.watchers)
        for name, text in MESH_GAUGES.items():
            yield self._per_mesh(name, text)
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"peermerge_coordinator_{name}", text, self._roster.counts[name])
        refusals = CounterMetricFamily("peermerge_coordinator_refusals", "Calls refused", labels=["reason"])
        for reason, count in tuple(self._service.refusals.items()):
            refusals.add_metric([reason], count)
        yield refusals

    def _per_mesh(self, name: str, text: str) -> Family:
        family = GaugeMetricFamily(f"peermerge_coordinator_{name}", text, labels=["network", "run"])
        for mesh in tuple(self._roster.meshes.values()):
            family.add_metric(list(mesh.key), len(mesh.members) if name == "members" else mesh.epoch)
        return family
