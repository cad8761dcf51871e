"""The client side: one cached channel per address, given up when it fails or is of no use any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc

from .addresses import parse_address
from .errors import ConfigError, Refusal, TransportError
from .grpc_settings import CHANNEL_OPTIONS, IDLE_S
from .limits import MAX_STREAMS_PER_PEER
from .tls import Tls

PEER_SERVICE: Final = "peermerge.v1.Peer"


class Line:
    """A channel to one address, its raw-bytes methods and how many calls are on it."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        none = grpc.Compression.NoCompression
        self.channel = (
            grpc.aio.secure_channel(target, tls.channel(), CHANNEL_OPTIONS, none)
            if tls
            else grpc.aio.insecure_channel(target, CHANNEL_OPTIONS, none)
        )
        self.hello = self.channel.unary_unary(f"/{PEER_SERVICE}/Hello")
        self.gossip = self.channel.unary_unary(f"/{PEER_SERVICE}/Gossip")
        self.pull = self.channel.unary_stream(f"/{PEER_SERVICE}/Pull")
        # The server refuses more than this per connection; waiting here is better than being refused there.
        self.pulls = asyncio.Semaphore(MAX_STREAMS_PER_PEER)
        self.users = 0
        self.used = 0.0
        """When the last of them left, on the loop's clock."""


class Channels:
    """Lines by address. A line that failed is retired: the next call dials anew, without gRPC's back-off.

    So are, when another address is dialled, lines without a call for `idle_s`: peers come back at other addresses.
    """

    def __init__(self, tls: Tls | None = None, idle_s: float = IDLE_S) -> None:
        self._tls = tls
        self._idle_s = idle_s
        self._current: dict[str, Line] = {}
        self._open: set[Line] = set()
        self._closed = False

    @asynccontextmanager
    async def line(self, address: str) -> AsyncIterator[Line]:
        """Lend the line to `address` for one call."""
        if address not in self._current:
            await self._hang_up_idle()
        line = self._line(address)
        line.users += 1
        try:
            yield line
        except TransportError as failure:
            if failure.refusal is Refusal.TRANSPORT and self._current.get(address) is line:
                del self._current[address]
            raise
        finally:
            line.users -= 1
            line.used = asyncio.get_running_loop().time()
            if line.users == 0 and self._current.get(address) is not line:
                await self._hang_up(line)

    async def close(self) -> None:
        """Close every channel; calls under way end with TransportError."""
        self._closed = True
        self._current.clear()
        for line in list(self._open):
            await self._hang_up(line)

    def _line(self, address: str) -> Line:
        if self._closed:
            raise TransportError(Refusal.TRANSPORT, "our transport is closed")
        if address not in self._current:
            self._current[address] = line = Line(_target(address), self._tls)
            self._open.add(line)
        return self._current[address]

    async def _hang_up_idle(self) -> None:
        since = asyncio.get_running_loop().time() - self._idle_s
        for address, line in list(self._current.items()):
            if not line.users and line.used <= since:
                del self._current[address]
                await self._hang_up(line)

    async def _hang_up(self, line: Line) -> None:
        self._open.discard(line)
        await line.channel.close()


def _target(address: str) -> str:
    try:
        # The scheme keeps a host called "unix" from being taken for one.
        return f"dns:///{parse_address(address)}"
    except ConfigError as error:
        raise TransportError(Refusal.TRANSPORT, str(error)) from error
