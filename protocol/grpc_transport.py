"""The transport between machines: `peermerge.v1.Peer` over grpc.aio, with raw bytes as messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from .addresses import parse_address
from .answering import Watch
from .errors import Refusal, TransportError
from .grpc_channels import PEER_SERVICE, Channels
from .grpc_door import Door
from .grpc_server import GrpcServer
from .grpc_settings import FIRST_MESSAGE_S
from .grpc_status import receiving
from .tls import Tls
from .transport import PeerHandler


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
        self._address = parse_address(advertise) if advertise is not None else None
        self._services = services
        self._first_message_s = first_message_s
        self._server = GrpcServer(listen, [PEER_SERVICE], health=health, reflection_names=reflection_names, tls=tls)
        self._channels = Channels(tls)
        self._watch = Watch()
        self.failures = self._watch.failures

    @property
    def address(self) -> str:
        """Where peers reach us: what was advertised, or else what was bound."""
        return str(self._address) if self._address is not None else self._server.address

    async def serve(self, handler: PeerHandler) -> None:
        """Bind and answer. Raises ConfigError if the address cannot be bound."""
        door = Door(handler, self._watch, self._first_message_s)
        await self._server.start((door.handlers(), *self._services))

    async def set_healthy(self, healthy: bool) -> None:
        """Tell `grpc.health.v1` clients whether this node serves."""
        await self._server.set_healthy(healthy)

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
        await self._server.close()
        await self._channels.close()


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
