"""Connections over gRPC end with what needed them: failed calls, peers that come and go, clients that vanish."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import psutil
import pytest

from peermerge.protocol.errors import PeerError, Refusal, TransportError
from peermerge.protocol.grpc_channels import Channels
from peermerge.protocol.grpc_settings import SERVER_OPTIONS
from peermerge.protocol.grpc_transport import GrpcTransport
from tests.protocol.transport_worlds import RaisingHandler, ScriptedHandler, collect

DEADLINE_S = 10.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client says first, with its empty settings."""
LIVES = 10


class Relay(ScriptedHandler):
    """Asks another for each Gossip, and refuses if that one does not answer."""

    def __init__(self, transport: GrpcTransport, other: str) -> None:
        super().__init__()
        self._transport = transport
        self._other = other

    async def gossip(self, request: bytes) -> bytes:
        """Ask."""
        try:
            return await self._transport.gossip(self._other, request, timeout_s=DEADLINE_S)
        except PeerError as error:
            raise TransportError(Refusal.TRANSPORT, "it does not answer me") from error


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Let nothing be freed but by its last user."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Start transports that are closed at the end."""
    started = []

    async def serve(handler: Any, listen: str = "127.0.0.1:0") -> GrpcTransport:
        transport = GrpcTransport(listen)
        started.append(transport)
        await transport.serve(handler)
        return transport

    yield serve
    for transport in started:
        await transport.close()


async def until(predicate: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not predicate():
            await asyncio.sleep(0.02)


def connections(address: str) -> int:
    """Return how many connections to an address this process holds open."""
    port = int(address.rpartition(":")[2])
    return sum(bool(c.raddr) and c.raddr.port == port for c in psutil.Process().net_connections("tcp"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers end connections that are idle for a second, if they end any."""
    options = [(key, 1000 if "idle" in key else value) for key, value in SERVER_OPTIONS]
    monkeypatch.setattr("peermerge.protocol.grpc_server.SERVER_OPTIONS", options)


@pytest.mark.parametrize("method", ["hello", "pull"])
@pytest.mark.usefixtures("no_collector")
async def test_a_refusal_leaves_nothing_of_what_led_to_it(start: Callable[..., Any], method: str) -> None:
    made: list[weakref.ref[Exception]] = []

    def error(_: bytes) -> Exception:
        refusal = PeerError(Refusal.STALE)
        made.append(weakref.ref(refusal))
        return refusal

    server, client = await start(RaisingHandler(error)), await start(ScriptedHandler())
    call: Any = (
        client.hello(server.address, b"", timeout_s=DEADLINE_S)
        if method == "hello"
        else collect(client.pull(server.address, b"", timeout_s=DEADLINE_S, stall_s=DEADLINE_S))
    )
    with pytest.raises(PeerError, match="STALE"):
        await call
    assert len(made) == 1
    await until(lambda: made[0]() is None)


@pytest.mark.usefixtures("no_collector")
async def test_descriptors_come_back_however_often_a_peer_does(start: Callable[..., Any]) -> None:
    mortal = await start(ScriptedHandler())
    address, process = mortal.address, psutil.Process()
    await mortal.close()
    node, asker = await start(ScriptedHandler()), await start(ScriptedHandler())
    relay = await start(Relay(node, address))
    taken, most = [], 0
    for _ in range(LIVES):
        for _ in range(3):
            with pytest.raises(TransportError, match="it does not answer me"):
                await asker.gossip(relay.address, b"", timeout_s=DEADLINE_S)
        handler = ScriptedHandler((b"one",), hang=True)
        mortal = await start(handler, address)
        parked = [
            asyncio.create_task(collect(node.pull(address, b"", timeout_s=DEADLINE_S, stall_s=DEADLINE_S)))
            for _ in range(2)
        ]
        assert await asker.gossip(relay.address, b"", timeout_s=DEADLINE_S)
        await handler.started.wait()
        taken.append(process.num_fds())
        most = max(most, connections(address))
        parked[0].cancel()
        await mortal.close()
        for pull in parked:
            with suppress(PeerError, asyncio.CancelledError):
                await pull
    assert most == 1
    assert max(taken) <= taken[0] + 2
    await until(lambda: connections(address) == 0)


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_vanishes_without_a_word_is_hung_up_on(start: Callable[..., Any]) -> None:
    server = await start(ScriptedHandler())
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read()  # up to its end
    writer.close()


@pytest.mark.usefixtures("impatient")
async def test_a_connection_without_calls_is_ended_and_made_again_for_the_next(start: Callable[..., Any]) -> None:
    server, client = await start(ScriptedHandler()), await start(ScriptedHandler())
    for _ in range(2):
        assert await client.hello(server.address, b"", timeout_s=DEADLINE_S) == b"hello "
        assert connections(server.address) == 1
        await until(lambda: connections(server.address) == 0)


async def test_a_line_out_of_use_is_closed_when_another_address_is_dialled() -> None:
    channels = Channels(idle_s=0.0)
    async with channels.line("127.0.0.1:1") as busy:
        async with channels.line("127.0.0.1:2") as idle:
            pass
        async with channels.line("127.0.0.1:1") as again:
            assert again is busy
        assert idle.channel.get_state() is grpc.ChannelConnectivity.IDLE
        async with channels.line("127.0.0.1:3"):
            pass
        assert idle.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        assert busy.channel.get_state() is grpc.ChannelConnectivity.IDLE
    await channels.close()


async def test_a_line_used_lately_is_kept() -> None:
    channels = Channels()
    async with channels.line("127.0.0.1:1") as first:
        pass
    async with channels.line("127.0.0.1:2"):
        pass
    async with channels.line("127.0.0.1:1") as again:
        assert again is first
    await channels.close()
