"""A grpc.aio server on one address, with `grpc.health.v1` and server reflection for other people's tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health  # pyright: ignore[reportAttributeAccessIssue]
from grpc_reflection.v1alpha import reflection

from .addresses import Address, parse_address
from .errors import ConfigError
from .grpc_settings import GRACE_S, MAX_CONCURRENT_RPCS, SERVER_OPTIONS
from .limits import MAX_MESSAGE_BYTES
from .tls import Tls

_LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class GrpcServer:
    """Serves handlers on `listen` (port 0: any free one) once started.

    `names` are what health answers for besides the server as a whole. `reflection_names` are the services that
    server reflection lists. With `tls` everything on the port is encrypted, and who has no certificate is refused.
    """

    def __init__(
        self,
        listen: str,
        names: Sequence[str],
        *,
        health: bool = True,
        reflection_names: Sequence[str] = (),
        tls: Tls | None = None,
        max_rpcs: int = MAX_CONCURRENT_RPCS,
        max_request_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._bound = self._listen = parse_address(listen, lowest_port=0)
        self._names = ("", *names)
        self._health = aio_health.HealthServicer() if health else None
        self._reflection_names = reflection_names
        self._tls = tls
        self._max_rpcs = max_rpcs
        self._options = dict(SERVER_OPTIONS) | {"grpc.max_receive_message_length": max_request_bytes}
        self._server: grpc.aio.Server | None = None
        self._calls = _Calls()

    @property
    def address(self) -> str:
        """Where this machine reaches what was bound."""
        return str(Address(_LOOPBACKS.get(self._bound.host, self._bound.host), self._bound.port))

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Bind and answer. Raises ConfigError if the address cannot be bound."""
        server = grpc.aio.server(
            options=tuple(self._options.items()),
            maximum_concurrent_rpcs=self._max_rpcs,
            compression=grpc.Compression.NoCompression,
            interceptors=[self._calls],
        )
        server.add_generic_rpc_handlers(tuple(handlers))
        self._add_health_and_reflection(server)
        self._bound = Address(self._listen.host, _bind(server, self._listen, self._tls))
        await server.start()
        self._server = server
        await self.set_healthy(True)

    async def set_healthy(self, healthy: bool) -> None:
        """Tell `grpc.health.v1` clients whether we serve."""
        if self._health is not None:
            status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in self._names:
                await self._health.set(name, status)

    async def close(self) -> None:
        """Say so to health watchers, stop after a short grace, and return once no handler is at work any more."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(GRACE_S)
            await self._calls.over(GRACE_S)

    def _add_health_and_reflection(self, server: grpc.aio.Server) -> None:
        names = [*self._reflection_names]
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        if self._reflection_names:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


class _Calls(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """The calls that are being answered.

    `Server.stop` returns as soon as it has decided to cancel them. A loop that ends before they have noticed leaves
    their cleanup undone, and gRPC prints a traceback for each.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Note the task that answers a call; gRPC gives each its own."""
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await continuation(details)

    async def over(self, limit_s: float) -> None:
        """Return once all have ended, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit_s)


def _bind(server: grpc.aio.Server, listen: Address, tls: Tls | None) -> int:
    host = str(listen)
    try:
        port: int = server.add_secure_port(host, tls.server()) if tls else server.add_insecure_port(host)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError(
            f"cannot listen on {listen}: the port is in use or the host is not this machine's; "
            "choose another port, 0 for any free one, or a host name or IP address of this machine"
        )
    return port
