"""The doors of a process: one port for peers, questions and commands, and another for the page of metrics."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

import grpc

from ..protocol.grpc_transport import GrpcTransport
from ..protocol.rpc import handlers
from ..protocol.wire_pb2 import DESCRIPTOR
from .config import NodeConfig
from .control import ControlService
from .metrics import serve_metrics
from .status import StatusService

PEER, STATUS, CONTROL = (DESCRIPTOR.services_by_name[name] for name in ("Peer", "Status", "Control"))


class Doors:
    """What a process listens on. A fetch of the base dials from here before anything is open."""

    def __init__(self, config: NodeConfig) -> None:
        self._metrics = config.node.metrics
        self._page: WSGIServer | None = None
        self._services: list[grpc.GenericRpcHandler] = []
        self.transport = GrpcTransport(
            config.node.listen,
            advertise=config.node.advertise,
            services=self._services,  # the transport reads them as it begins to serve
            reflection_names=[service.full_name for service in (PEER, STATUS, CONTROL)],
        )

    def bind(self, status: StatusService, control: ControlService) -> None:
        """Say who answers beside the node itself; before it serves."""
        self._services += [handlers(STATUS, status), handlers(CONTROL, control)]

    def open_page(self, status: StatusService) -> None:
        """Open the page of metrics where one is configured. Raises ConfigError if the address cannot be bound."""
        if self._metrics:
            self._page, _ = serve_metrics(self._metrics, status.reply)

    def close_page(self) -> None:
        """Close the page if it is open; the transport is closed with the node."""
        if self._page is not None:
            self._page.shutdown()
            self._page.server_close()
