"""What both transports promise, shown on both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from peermerge.protocol.errors import ConfigError, PeerError, Refusal, TransportError
from peermerge.protocol.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES
from tests.protocol.transport_worlds import (
    GrpcWorld,
    MemoryWorld,
    RaisingHandler,
    ScriptedHandler,
    World,
    collect,
    is_transport,
    refusal_of,
)

PATIENT = {"timeout_s": 10.0, "stall_s": 10.0}


@pytest.fixture(params=[MemoryWorld, GrpcWorld], ids=["memory", "grpc"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World = request.param()
    yield made
    await made.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"


async def test_a_hello_is_answered(world: World) -> None:
    server, client = await world.start(ScriptedHandler()), await world.start(ScriptedHandler())
    assert await client.hello(server.address, b"you", timeout_s=10) == b"hello you"
    assert await server.hello(client.address, b"", timeout_s=10) == b"hello "


async def test_three_mebibytes_arrive_as_they_were_sent(world: World) -> None:
    chunks = tuple(random.Random(7).randbytes(CHUNK_BYTES) for _ in range(3))
    handler = ScriptedHandler(chunks)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    assert await collect(client.pull(server.address, b"", **PATIENT)) == list(chunks)
    await handler.cleaned.wait()


async def test_empty_messages_and_the_largest_message_arrive(world: World) -> None:
    chunks = (b"", bytes(MAX_MESSAGE_BYTES), b"")
    server, client = await world.start(ScriptedHandler(chunks)), await world.start(ScriptedHandler())
    assert await collect(client.pull(server.address, b"", **PATIENT)) == list(chunks)


async def test_a_stream_without_messages_ends_well(world: World) -> None:
    server, client = await world.start(ScriptedHandler()), await world.start(ScriptedHandler())
    assert await collect(client.pull(server.address, b"", **PATIENT)) == []


async def test_every_refusal_arrives_as_itself_with_its_detail(world: World) -> None:
    server = await world.start(RaisingHandler(lambda request: PeerError(Refusal(request[0]), "näher erklärt")))
    client = await world.start(ScriptedHandler())
    for refusal in Refusal:
        request = bytes([refusal])
        with pytest.raises(PeerError, match="näher erklärt") as told:
            await client.hello(server.address, request, timeout_s=10)
        ended = await refusal_of(client.pull(server.address, request, **PATIENT))
        assert told.value.refusal is ended.refusal is refusal
        assert isinstance(ended, TransportError) is (refusal in (Refusal.TRANSPORT, Refusal.DEADLINE))
    assert not server.failures


async def test_messages_before_a_refusal_still_arrive(world: World) -> None:
    server = await world.start(RaisingHandler(lambda _: PeerError(Refusal.STALE)))
    client = await world.start(ScriptedHandler())
    stream = client.pull(server.address, b"", **PATIENT)
    assert await anext(stream) == b"first"
    assert (await refusal_of(stream)).refusal is Refusal.STALE


async def test_an_unforeseen_exception_is_kept_and_the_caller_learns_nothing_of_it(world: World) -> None:
    server = await world.start(RaisingHandler(lambda _: KeyError("secret")))
    client = await world.start(ScriptedHandler())
    with pytest.raises(TransportError, match="my handler failed") as told:
        await client.hello(server.address, b"", timeout_s=10)
    ended = await refusal_of(client.pull(server.address, b"", **PATIENT))
    assert is_transport(told.value, Refusal.TRANSPORT)
    assert is_transport(ended, Refusal.TRANSPORT)
    assert "secret" not in str(told.value)
    assert [type(failure) for failure in server.failures] == [KeyError, KeyError]


async def test_oversized_messages_are_refused_in_both_directions(world: World) -> None:
    large = bytes(MAX_MESSAGE_BYTES + 1)
    handler = ScriptedHandler((large,))
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    with pytest.raises(TransportError) as asked:
        await client.hello(server.address, large, timeout_s=10)
    with pytest.raises(PeerError) as answered:
        await client.hello(server.address, large[1:], timeout_s=10)
    pulled = await refusal_of(client.pull(server.address, b"", **PATIENT))
    assert {asked.value.refusal, answered.value.refusal, pulled.refusal} == {Refusal.OVERSIZE}


async def test_a_silent_peer_costs_a_hello_no_more_than_its_deadline(world: World) -> None:
    handler = ScriptedHandler(hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    with pytest.raises(TransportError) as raised:
        await client.hello(server.address, b"", timeout_s=0.1)
    assert raised.value.refusal is Refusal.DEADLINE
    await handler.cleaned.wait()


async def test_a_pull_that_never_begins_ends_at_its_deadline(world: World) -> None:
    handler = ScriptedHandler(hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    ended = await refusal_of(client.pull(server.address, b"", timeout_s=0.1, stall_s=10))
    assert is_transport(ended, Refusal.DEADLINE)
    await handler.cleaned.wait()


async def test_a_stream_that_stalls_ends_long_before_its_deadline(world: World) -> None:
    handler = ScriptedHandler((b"one",), hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    stream = client.pull(server.address, b"", timeout_s=60, stall_s=0.1)
    assert await anext(stream) == b"one"
    assert is_transport(await refusal_of(stream), Refusal.DEADLINE)
    await handler.cleaned.wait()


async def test_the_handler_cleans_up_when_the_caller_stops_reading(world: World) -> None:
    handler = ScriptedHandler((bytes(CHUNK_BYTES),) * 40)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    async with aclosing(client.pull(server.address, b"", **PATIENT)) as stream:
        await anext(stream)
    await handler.cleaned.wait()
    assert handler.open == 0


async def test_the_handler_cleans_up_when_the_caller_is_cancelled(world: World) -> None:
    handler = ScriptedHandler(hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    task = asyncio.create_task(collect(client.pull(server.address, b"", **PATIENT)))
    await handler.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await handler.cleaned.wait()


async def test_a_broken_connection_ends_the_stream_at_once_and_the_handler_cleans_up(world: World) -> None:
    handler = ScriptedHandler((b"one",), hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    address = await world.reach(server)
    stream = client.pull(address, b"", timeout_s=60, stall_s=60)
    assert await anext(stream) == b"one"
    world.reset(address)
    assert is_transport(await refusal_of(stream), Refusal.TRANSPORT)
    await handler.cleaned.wait()
    async with aclosing(client.pull(address, b"", **PATIENT)) as again:
        assert await anext(again) == b"one"


async def test_a_network_that_falls_silent_ends_the_stream_after_the_stall(world: World) -> None:
    handler = ScriptedHandler((b"one",) * 3, hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    address = await world.reach(server)
    stream = client.pull(address, b"", timeout_s=60, stall_s=0.1)
    assert await anext(stream) == b"one"
    world.stall(address)
    assert is_transport(await refusal_of(stream), Refusal.DEADLINE)
    with pytest.raises(TransportError) as raised:
        await client.hello(address, b"", timeout_s=0.1)
    assert raised.value.refusal is Refusal.DEADLINE


async def test_closing_the_server_ends_its_calls_with_a_transport_error(world: World) -> None:
    handler = ScriptedHandler((b"one",), hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    stream = client.pull(server.address, b"", **PATIENT)
    assert await anext(stream) == b"one"
    _, ended = await asyncio.gather(server.close(), refusal_of(stream))
    assert is_transport(ended, Refusal.TRANSPORT)
    await handler.cleaned.wait()


async def test_closing_our_own_end_ends_our_calls_with_a_transport_error(world: World) -> None:
    handler = ScriptedHandler(hang=True)
    server, client = await world.start(handler), await world.start(ScriptedHandler())
    hello = asyncio.create_task(client.hello(server.address, b"", timeout_s=10))
    pull = asyncio.create_task(refusal_of(client.pull(server.address, b"", **PATIENT)))
    await handler.started.wait()
    await client.close()
    with pytest.raises(TransportError) as raised:
        await hello
    assert is_transport(raised.value, Refusal.TRANSPORT)
    assert is_transport(await pull, Refusal.TRANSPORT)
    with pytest.raises(TransportError):
        await client.hello(server.address, b"", timeout_s=10)
    await client.close()


async def test_a_peer_that_restarts_is_reached_by_the_next_hello(world: World) -> None:
    client = await world.start(ScriptedHandler())
    server = await world.start(ScriptedHandler())
    for _ in range(3):
        assert await client.hello(server.address, b"", timeout_s=10) == b"hello "
        await server.close()
        for _ in range(3):
            with pytest.raises(TransportError) as raised:
                await client.hello(server.address, b"", timeout_s=10)
            assert raised.value.refusal is Refusal.TRANSPORT
        server = await world.start(ScriptedHandler(), server.address)


async def test_an_address_in_use_is_a_config_error_that_names_it(world: World) -> None:
    server = await world.start(ScriptedHandler())
    with pytest.raises(ConfigError, match=rf"{server.address}.*choose another"):
        await world.start(ScriptedHandler(), server.address)
    assert await server.hello(server.address, b"me", timeout_s=10) == b"hello me"


async def test_an_address_that_makes_no_sense_is_a_failed_call(world: World) -> None:
    client = await world.start(ScriptedHandler())
    for address in ("", "nobody", "unix:/tmp/x", "::1:80"):
        with pytest.raises(TransportError) as raised:
            await client.hello(address, b"", timeout_s=10)
        assert raised.value.refusal is Refusal.TRANSPORT
        assert is_transport(await refusal_of(client.pull(address, b"", **PATIENT)), Refusal.TRANSPORT)
