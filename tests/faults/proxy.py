"""A TCP proxy that spoils connections, within the test's own event loop: for tests without root."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

READ_BYTES = 1 << 14
AHEAD = 64
"""So many reads are taken in before the sender has to wait."""

Ending = Literal["reset", "finish", "stall"]
Reads = asyncio.Queue[tuple[float, bytes]]
"""When each came, and what; nothing at the end."""


@dataclass(slots=True)
class Way:
    """How one direction is treated, each connection by itself; may be changed while data flows."""

    latency_s: float = 0.0
    rate_bytes_s: float = 0.0
    """0: no limit."""
    after_bytes: int | None = None
    """So many bytes pass, then comes the ending."""
    ending: Ending = "reset"
    """Both sides see a reset; the receiver sees an orderly end; or nothing comes any more."""
    flips: dict[int, int] = field(default_factory=dict)
    """Bits to flip, by the byte's place in the stream."""
    passed: int = 0
    """Bytes of all connections."""
    flipped: int = 0
    ended: int = 0

    def spoil(self, data: bytes, place: int) -> bytes:
        """Return bytes of the stream with their bits flipped."""
        changed = bytearray(data)
        for at, bits in self.flips.items():
            if 0 <= at - place < len(data):
                changed[at - place] ^= bits
                self.flipped += 1
        return bytes(changed)


class Proxy:
    """Forwards connections to another port; `to` and `back` are the two directions as its clients see them."""

    def __init__(self, host: str, port: int) -> None:
        self.to, self.back = Way(), Way()
        self.address = ""
        self.refusing = False
        """New connections are reset at once."""
        self.connections = 0
        self.refused = 0
        self._target = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> int:
        """Reset all connections there are; return how many."""
        for writer in self._writers:
            _reset(writer)
        return len(self._writers) // 2

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a new connection in the background."""
        task = asyncio.create_task(self._forward(reader, writer), name="connection")
        self._tasks.add(task)

    async def close(self) -> None:
        """End all connections; raise what one of them failed of."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            self.refused += 1
            _reset(writer)
            return
        ends = {writer}
        try:
            there_reader, there = await asyncio.open_connection(*self._target)
            ends.add(there)
            self._writers |= ends
            async with asyncio.TaskGroup() as group:
                for way, source, sink in ((self.to, reader, there), (self.back, there_reader, writer)):
                    reads: Reads = asyncio.Queue(AHEAD)
                    group.create_task(_read(source, reads))
                    group.create_task(_deliver(way, reads, sink, ends))
        except* OSError:
            pass  # one side has gone: so goes the other
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _read(source: asyncio.StreamReader, reads: Reads) -> None:
    clock = asyncio.get_running_loop().time
    data = b"-"
    while data:
        data = await source.read(READ_BYTES)
        await reads.put((clock(), data))


async def _deliver(way: Way, reads: Reads, sink: asyncio.StreamWriter, ends: set[asyncio.StreamWriter]) -> None:
    clock = asyncio.get_running_loop().time
    place = 0
    while True:
        came, data = await reads.get()
        await asyncio.sleep(came + way.latency_s - clock())
        over = way.after_bytes is not None and place + len(data) > way.after_bytes
        data = data[: (way.after_bytes or 0) - place] if over else data
        if data:
            sink.write(way.spoil(data, place))
            await sink.drain()
            place += len(data)
            way.passed += len(data)
            await asyncio.sleep(len(data) / way.rate_bytes_s if way.rate_bytes_s else 0)
        elif not over:
            sink.write_eof()
            return
        if over:
            way.ended += 1
            await _finish(way.ending, sink, ends)
            return


async def _finish(ending: Ending, sink: asyncio.StreamWriter, ends: set[asyncio.StreamWriter]) -> None:
    match ending:
        case "reset":
            for end in ends:
                _reset(end)
        case "finish":
            sink.write_eof()
        case "stall":
            await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, as from a process that was killed."""
    opened: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """Listen on a free port of the loopback interface, in front of another."""
    made = Proxy(host, port)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.close()
