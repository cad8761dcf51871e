"""The transport between machines: `peermerge.v1.Peer` over grpc.aio, with raw bytes as messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health  # pyright: ignore[reportAttributeAccessIssue]
from grpc_reflection.v1alpha import reflection

from .addresses import Address, parse_address
from .answering import Watch
from .errors import ConfigError, Refusal, TransportError
from .grpc_channels import PEER_SERVICE, Channels
from .grpc_door import Door
from .grpc_settings import FIRST_MESSAGE_S, GRACE_S, MAX_CONCURRENT_RPCS, SERVER_OPTIONS
from .grpc_status import receiving
from .tls import Tls
from .transport import PeerHandler

_LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class GrpcTransport:
    """A server on `listen` (port 0: any free one) and channels to peers.

    `advertise` is what peers are told to dial, where that is not the bound address. `services` are further
    generic handlers for the same port; `reflection_names` are the services that server reflection lists. With `tls`
    everything on the port and every call to a peer is encrypted, and who has no certificate is refused.
    Exceptions that no handler should have raised are kept in `failures`.
    """

    def __init__(
        self,
        listen: str,
        *,
        advertise: str | None = None,
        services: Sequence[grpc.GenericRpcHandler] = (),
        health: bool = True,
        reflection_names: Sequence[str] = (),
        first_message_s: float = FIRST_MESSAGE_S,
        tls: Tls | None = None,
    ) -> None:
        self._listen = parse_address(listen, lowest_port=0)
        self._address = parse_address(advertise) if advertise is not None else None
        self._bound = self._listen
        self._services = services
        self._health = aio_health.HealthServicer() if health else None
        self._reflection_names = reflection_names
        self._first_message_s = first_message_s
        self._server: grpc.aio.Server | None = None
        self._tls = tls
        self._channels = Channels(tls)
        self._watch = Watch()
        self.failures = self._watch.failures

    @property
    def address(self) -> str:
        """Where peers reach us: what was advertised, or else what was bound."""
        if self._address is not None:
            return str(self._address)
        return str(Address(_LOOPBACKS.get(self._bound.host, self._bound.host), self._bound.port))

    async def serve(self, handler: PeerHandler) -> None:
        """Bind and answer. Raises ConfigError if the address cannot be bound."""
        server = grpc.aio.server(
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
            compression=grpc.Compression.NoCompression,
        )
        door = Door(handler, self._watch, self._first_message_s)
        server.add_generic_rpc_handlers((door.handlers(), *self._services))
        self._add_health_and_reflection(server)
        self._bound = Address(self._listen.host, _bind(server, self._listen, self._tls))
        await server.start()
        self._server = server
        await self.set_healthy(True)

    async def set_healthy(self, healthy: bool) -> None:
        """Tell `grpc.health.v1` clients whether this node serves."""
        if self._health is not None:
            status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set("", status)
            await self._health.set(PEER_SERVICE, status)

    async def hello(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Exchange Hellos; see `Transport`."""
        async with self._channels.line(address) as line:
            with receiving():
                reply: bytes = await line.hello(request, timeout=timeout_s)
        return reply

    async def gossip(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Exchange Gossip; see `Transport`."""
        async with self._channels.line(address) as line:
            with receiving():
                reply: bytes = await line.gossip(request, timeout=timeout_s)
        return reply

    async def pull(
        self, address: str, request: bytes, *, timeout_s: float, stall_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Stream; see `Transport`. The call ends with the generator."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._channels.line(address) as line, _place(line.pulls, deadline):
            remaining_s = deadline - asyncio.get_running_loop().time()
            call = line.pull(request, timeout=remaining_s)
            try:
                limit_s = None
                while (message := await _read(call, limit_s)) is not None:
                    yield message
                    limit_s = stall_s
            finally:
                call.cancel()

    async def close(self) -> None:
        """Say so to health watchers, stop the server after a short grace, close the channels."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(GRACE_S)
        await self._channels.close()

    def _add_health_and_reflection(self, server: grpc.aio.Server) -> None:
        names = [*self._reflection_names]
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        if self._reflection_names:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


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


@asynccontextmanager
async def _place(places: asyncio.Semaphore, deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            await places.acquire()
    except TimeoutError:
        raise TransportError(Refusal.DEADLINE, "too many pulls from this peer under way") from None
    try:
        yield
    finally:
        places.release()


async def _read(call: grpc.aio.UnaryStreamCall[bytes, bytes], limit_s: float | None) -> bytes | None:
    scope = asyncio.timeout(limit_s)
    try:
        with receiving():
            async with scope:
                message = await call.read()
    except TimeoutError:
        raise TransportError(Refusal.DEADLINE, f"no byte for {limit_s} s") from None
    return message if isinstance(message, bytes) else None
