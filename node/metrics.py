"""The status as Prometheus metrics on a page of the node's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..protocol.addresses import parse_address
from ..protocol.errors import ConfigError
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
    "unpaid_weight": "Merge weight that could not be returned: drift of the mean",
}
COUNTERS = {"bytes_in": "Bytes received from peers", "bytes_out": "Bytes sent to peers"}
PEER_GAUGES = ("version", "staleness", "round_trip_s", "consensus_distance", "weight")
PEER_COUNTERS = ("bytes_in", "bytes_out", "merged", "skipped")

Family = GaugeMetricFamily | CounterMetricFamily


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
        for name in PEER_GAUGES:
            gauge = GaugeMetricFamily(f"peermerge_peer_{name}", f"{name} per peer", labels=["peer"])
            yield _per_peer(gauge, reply, name)
        for name in PEER_COUNTERS:
            family = CounterMetricFamily(f"peermerge_peer_{name}", f"{name} per peer", labels=["peer"])
            yield _per_peer(family, reply, name)


def serve_metrics(listen: str, status: Callable[[], StatusReply]) -> tuple[WSGIServer, Thread]:
    """Open the page; raises ConfigError if the address cannot be bound."""
    address = parse_address(listen, lowest_port=0)
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    try:
        return start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise ConfigError(f"--metrics {listen}: {error.strerror or error}; choose another port") from error


def _per_peer(family: Family, reply: StatusReply, name: str) -> Family:
    for peer in reply.peers:
        family.add_metric([peer.name], getattr(peer, name))
    return family
