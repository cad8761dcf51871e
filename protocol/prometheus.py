"""A page for Prometheus to scrape."""

from __future__ import annotations

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .addresses import parse_address
from .errors import ConfigError

Family = GaugeMetricFamily | CounterMetricFamily


def open_page(listen: str, collector: Collector) -> tuple[WSGIServer, Thread]:
    """Serve what a collector yields, from a thread; raises ConfigError if the address cannot be bound."""
    address = parse_address(listen, lowest_port=0)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        return start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise ConfigError(f"--metrics {listen}: {error.strerror or error}; choose another port") from error
