"""The proxy does what it says to a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from random import Random

import pytest

from .proxy import Proxy, proxy

pytestmark = pytest.mark.faults
DATA = Random(0).randbytes(200_000)
SILENCE_S = 0.3
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that sends everything back."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        async with proxy(*server.sockets[0].getsockname()) as made:
            yield made
    finally:
        server.close()


async def dial(made: Proxy) -> Connection:
    host, port = made.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def echoed(made: Proxy, data: bytes = DATA) -> bytes:
    """Send all and the end; return all that comes back."""
    reader, writer = await dial(made)
    with closing(writer):
        sending = asyncio.create_task(_send(writer, data))
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


async def test_it_passes_everything_at_first() -> None:
    async with echo() as made:
        assert await echoed(made) == DATA
        assert (made.connections, made.to.passed, made.back.passed) == (1, len(DATA), len(DATA))


async def test_latency_delays_each_way() -> None:
    async with echo() as made:
        made.to.latency_s, made.back.latency_s = 0.05, 0.1
        started = asyncio.get_running_loop().time()
        assert await echoed(made, b"ping") == b"ping"
        assert asyncio.get_running_loop().time() - started >= 0.15


async def test_a_rate_is_kept() -> None:
    async with echo() as made:
        made.back.rate_bytes_s = 500_000
        started = asyncio.get_running_loop().time()
        assert await echoed(made) == DATA
        assert asyncio.get_running_loop().time() - started >= 0.36


async def test_a_reset_after_some_bytes_is_seen_by_both_sides() -> None:
    async with echo() as made:
        made.back.after_bytes = 50_000
        with pytest.raises(ConnectionResetError):
            await echoed(made)
        assert made.back.passed == 50_000
        assert made.back.ended == 1


async def test_an_orderly_end_cuts_the_stream_short() -> None:
    async with echo() as made:
        made.back.after_bytes, made.back.ending = 50_000, "finish"
        assert await echoed(made) == DATA[:50_000]
        assert made.back.ended == 1


async def test_a_stall_keeps_the_connection_open_and_silent() -> None:
    async with echo() as made:
        made.to.after_bytes, made.to.ending = 1000, "stall"
        reader, writer = await dial(made)
        with closing(writer):
            writer.write(DATA[:5000])
            assert await asyncio.wait_for(reader.readexactly(1000), 20) == DATA[:1000]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), SILENCE_S)
        assert made.to.ended == 1


async def test_bits_are_flipped_where_asked() -> None:
    async with echo() as made:
        made.back.flips = {0: 1, 150_000: 0x80}
        expected = bytearray(DATA)
        expected[0] ^= 1
        expected[150_000] ^= 0x80
        assert await echoed(made) == expected
        assert made.back.flipped == 2


async def test_refused_and_cut_connections_are_reset() -> None:
    async with echo() as made:
        reader, writer = await dial(made)
        with closing(writer):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            assert made.cut() == 1
            with pytest.raises(ConnectionResetError):
                await reader.read()
        made.refusing = True
        with pytest.raises(ConnectionResetError):
            await echoed(made)
        assert made.refused == 1
