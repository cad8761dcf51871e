"""The same nodes and faults over both transports: a memory network, and gRPC through a TCP tap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from peermerge.protocol.errors import PeerError, Refusal, TransportError
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport
from peermerge.protocol.transport import PeerHandler

AnyTransport = GrpcTransport | MemoryTransport


class ScriptedHandler:
    """Echo hellos; stream `chunks`, then hang if told to; note when a stream starts and is cleaned up."""

    def __init__(self, chunks: tuple[bytes, ...] = (), *, hang: bool = False) -> None:
        self.chunks = chunks
        self.hang = hang
        self.started = asyncio.Event()
        self.cleaned = asyncio.Event()
        self.open = 0

    async def hello(self, request: bytes) -> bytes:
        """Echo, or hang like a peer that has stopped."""
        if self.hang:
            await self._hang()
        return b"hello " + request

    async def gossip(self, request: bytes) -> bytes:
        """Echo."""
        return b"gossip " + request

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Stream the chunks."""
        self.open += 1
        self.started.set()
        try:
            for chunk in self.chunks:
                yield chunk
            if self.hang:
                await self._hang()
        finally:
            self.open -= 1
            self.cleaned.set()

    async def _hang(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned.set()


class RaisingHandler:
    """Answer every call with the exception that `make` builds of the request."""

    def __init__(self, make: Callable[[bytes], Exception]) -> None:
        self._make = make

    async def hello(self, request: bytes) -> bytes:
        """Raise."""
        raise self._make(request)

    async def gossip(self, request: bytes) -> bytes:
        """Raise."""
        raise self._make(request)

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Raise after one message."""
        yield b"first"
        raise self._make(request)


class Tap:
    """A TCP relay in front of a server, which can go silent or reset every connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Listen, and return the address to dial instead of the server's."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stall(self) -> None:
        """Pass nothing on from now on."""
        self._flowing.clear()

    def reset(self) -> None:
        """Abort every connection, as the kernel does for a killed process."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        """End all relaying."""
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, there[1]]
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._tasks.add(asyncio.create_task(self._relay(source, sink)))

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


class MemoryWorld:
    """Nodes of one memory network in real time."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(latency_s=0.001)
        self._transports: list[MemoryTransport] = []

    async def start(self, handler: PeerHandler, address: str | None = None) -> MemoryTransport:
        """Return a serving transport."""
        transport = self.network.transport(address or f"node-{len(self._transports)}")
        self._transports.append(transport)
        await transport.serve(handler)
        return transport

    async def reach(self, server: AnyTransport) -> str:
        """Return the address by which faults can be injected."""
        return server.address

    def stall(self, address: str) -> None:
        """Swallow everything to and from a node."""
        others = [transport.address for transport in self._transports if transport.address != address]
        self.network.cut([address], others)

    def reset(self, address: str) -> None:
        """Break all calls of a node off."""
        self.network.kill(address)
        self.network.revive(address)

    async def close(self) -> None:
        """Close every node."""
        for transport in self._transports:
            await transport.close()


class GrpcWorld:
    """Nodes on loopback ports."""

    def __init__(self) -> None:
        self._transports: list[GrpcTransport] = []
        self._taps: dict[str, Tap] = {}

    async def start(self, handler: PeerHandler, address: str | None = None) -> GrpcTransport:
        """Return a serving transport."""
        transport = GrpcTransport(address or "127.0.0.1:0")
        self._transports.append(transport)
        await transport.serve(handler)
        return transport

    async def reach(self, server: AnyTransport) -> str:
        """Return the address by which faults can be injected."""
        tap = Tap(int(server.address.rpartition(":")[2]))
        address = await tap.open()
        self._taps[address] = tap
        return address

    def stall(self, address: str) -> None:
        """Swallow everything to and from a node."""
        self._taps[address].stall()

    def reset(self, address: str) -> None:
        """Break all calls of a node off."""
        self._taps[address].reset()

    async def close(self) -> None:
        """Close every node."""
        for transport in self._transports:
            await transport.close()
        for tap in self._taps.values():
            await tap.close()


World = MemoryWorld | GrpcWorld


async def collect(stream: AsyncIterator[bytes]) -> list[bytes]:
    """Return all messages of a stream."""
    return [message async for message in stream]


async def refusal_of(stream: AsyncIterator[bytes]) -> PeerError:
    """Return the error a stream ends with."""
    try:
        await collect(stream)
    except PeerError as error:
        return error
    raise AssertionError("the stream ended well")


def is_transport(error: PeerError, refusal: Refusal) -> bool:
    """Whether it is a TransportError for this reason."""
    return isinstance(error, TransportError) and error.refusal is refusal
