"""The status as Prometheus metrics on a page of the node's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..protocol.prometheus import Family, open_page
from ..protocol.wire_pb2 import StatusReply

GAUGES = {
    "round": "Current round",
    "version": "Version of the published state",
    "residue": "Norm of what is not yet published",
    "omega": "Share of the residue that frames remove",
    "gamma": "Step of the last correction",
    "consensus_distance": "Root mean square distance to the neighbours' states",
    "compression_ratio": "Dense float32 bytes over bytes of the last frame",
    "memory_bytes": "Resident memory",
    "uptime_s": "Seconds since the start",
    "deadline_s": "Adaptive deadline of a round",
    "arrival_median_s": "Median of recent arrivals, which the deadline is made of",
    "arrival_spread_s": "Median absolute deviation of recent arrivals",
    "health": "0: the node keeps up; more: it answers late itself",
    "unpaid_weight": "Merge weight that could not be returned: drift of the mean",
}
COUNTERS = {
    "bytes_in": "Bytes received from peers",
    "bytes_out": "Bytes sent to peers",
    "telemetry_dropped": "Figures that the broker was never told",
}
PEER_GAUGES = (
    *("version", "staleness", "round_trip_s", "consensus_distance", "weight"),
    *("state", "arrival_s", "failures", "retry_s", "waited_for"),
)
PEER_COUNTERS = ("bytes_in", "bytes_out", "merged", "skipped")


class StatusCollector(Collector):
    """Turns the status into metric families whenever it is scraped."""

    def __init__(self, status: Callable[[], StatusReply]) -> None:
        self._status = status

    def collect(self) -> Iterator[Family]:
        """Yield the families."""
        reply = self._status()
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"peermerge_{name}", text, getattr(reply, name))
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"peermerge_{name}", text, getattr(reply, name))
        metric = GaugeMetricFamily("peermerge_metric", "What the task's evaluation returned", labels=["name"])
        for name, value in reply.metrics.items():
            metric.add_metric([name], value)
        yield metric
        yield GaugeMetricFamily("peermerge_members", "Members of the view, this node included", len(reply.members))
        connected = GaugeMetricFamily("peermerge_connected", "Whether a configured service answers", labels=["service"])
        for service in ("coordinator", "broker"):
            if state := getattr(reply, service):
                connected.add_metric([service], state == "connected")
        yield connected
        for name in PEER_GAUGES:
            gauge = GaugeMetricFamily(f"peermerge_peer_{name}", f"{name} per peer", labels=["peer"])
            yield _per_peer(gauge, reply, name)
        for name in PEER_COUNTERS:
            family = CounterMetricFamily(f"peermerge_peer_{name}", f"{name} per peer", labels=["peer"])
            yield _per_peer(family, reply, name)


def serve_metrics(listen: str, status: Callable[[], StatusReply]) -> tuple[WSGIServer, Thread]:
    """Open the page; raises ConfigError if the address cannot be bound."""
    return open_page(listen, StatusCollector(status))


def _per_peer(family: Family, reply: StatusReply, name: str) -> Family:
    for peer in reply.peers:
        family.add_metric([peer.name], getattr(peer, name))
    return family
