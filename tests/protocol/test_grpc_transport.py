"""What only the gRPC transport does: binding, other tools' services, limits of a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from peermerge.protocol.errors import ConfigError, PeerError, Refusal, TransportError
from peermerge.protocol.grpc_status import CODES, TRAILER
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.limits import CHUNK_BYTES, MAX_STREAMS_PER_PEER
from peermerge.protocol.rpc import Stub
from tests.protocol.certificates import self_signed
from tests.protocol.transport_worlds import RaisingHandler, ScriptedHandler, collect

HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def serving(handler: Any = None, listen: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[GrpcTransport]:
    """Run a transport."""
    transport = GrpcTransport(listen, **options)
    try:
        await transport.serve(handler or ScriptedHandler())
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def raw_channel(handler: Any = None, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Run a transport and return a plain channel to it."""
    async with serving(handler, **options) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def raw_pull(channel: grpc.aio.Channel) -> Any:
    """Return Pull as a client that may send nothing, or everything at once, sees it."""
    return channel.stream_stream("/peermerge.v1.Peer/Pull")()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_nodes_reach_each_other_over_ipv6() -> None:
    async with serving(listen="[::1]:0") as server, serving() as client:
        assert server.address.startswith("[::1]:")
        assert await client.hello(server.address, b"six", timeout_s=10) == b"hello six"


async def test_a_host_name_is_resolved() -> None:
    async with serving(listen="localhost:0") as server, serving() as client:
        assert server.address.startswith("localhost:")
        assert await client.hello(server.address, b"", timeout_s=10) == b"hello "


async def test_peers_are_told_an_address_they_can_dial() -> None:
    async with serving(listen="0.0.0.0:0") as wildcard, serving(advertise="trainer.example:50051") as named:
        assert wildcard.address.startswith("127.0.0.1:")
        assert await named.hello(wildcard.address, b"", timeout_s=10) == b"hello "
        assert named.address == "trainer.example:50051"


@pytest.mark.parametrize("listen", ["nowhere.invalid:0", "192.0.2.7:0"])
async def test_a_host_that_is_not_ours_cannot_be_listened_on(listen: str) -> None:
    transport = GrpcTransport(listen)
    with pytest.raises(ConfigError, match=f"{listen}.*this machine"):
        await transport.serve(ScriptedHandler())
    await transport.close()


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:1")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with serving(listen="localhost:0") as server, serving() as client:
        assert await client.hello(server.address, b"", timeout_s=10) == b"hello "


async def test_health_checks_are_answered() -> None:
    async with serving() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = Stub(channel, HEALTH)
        for service in ("", "peermerge.v1.Peer"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await stub.call("Check", request, 10)).status == SERVING
            await server.set_healthy(False)
            assert (await stub.call("Check", request, 10)).status == NOT_SERVING
            await server.set_healthy(True)


async def test_health_watchers_learn_of_the_shutdown() -> None:
    async with serving() as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = Stub(channel, HEALTH).stream("Watch", health_pb2.HealthCheckRequest(), 10)
        assert (await anext(stream)).status == SERVING
        closing = asyncio.create_task(server.close())
        assert (await anext(stream)).status == NOT_SERVING
        with pytest.raises(TransportError):
            await anext(stream)
        await closing


async def test_health_can_be_left_out() -> None:
    async with serving(health=False) as server, grpc.aio.insecure_channel(server.address) as channel:
        await server.set_healthy(True)
        with pytest.raises(TransportError, match="UNIMPLEMENTED"):
            await Stub(channel, HEALTH).call("Check", health_pb2.HealthCheckRequest(), 10)


async def test_reflection_lists_the_services() -> None:
    async with raw_channel(reflection_names=["peermerge.v1.Peer"]) as channel:
        call: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue]
    assert listed == {"peermerge.v1.Peer", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_every_refusal_has_a_code_and_none_looks_like_a_bug() -> None:
    assert set(CODES) == set(Refusal)
    never = {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}
    assert never.isdisjoint(CODES.values())


async def test_tools_that_know_only_grpc_see_the_code_and_the_name() -> None:
    handler = RaisingHandler(lambda _: PeerError(Refusal.BAD_SIGNATURE, "line one\nline two" + "x" * 9999))
    async with raw_channel(handler) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/peermerge.v1.Peer/Hello")(b"", timeout=10)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (TRAILER, "BAD_SIGNATURE") in [tuple(pair) for pair in raised.value.trailing_metadata()]
    details = raised.value.details() or ""
    assert "\n" not in details
    assert 200 < len(details) < 300


@pytest.mark.parametrize(
    ("code", "detail", "told", "refusal"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "", "FROM_THE_FUTURE", Refusal.TRANSPORT),
        (grpc.StatusCode.UNIMPLEMENTED, "", None, Refusal.TRANSPORT),
        (grpc.StatusCode.INTERNAL, "", None, Refusal.TRANSPORT),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", None, Refusal.DEADLINE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max", None, Refusal.OVERSIZE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", None, Refusal.RATE_LIMITED),
        (grpc.StatusCode.OK, "", "STALE", None),
    ],
)
async def test_what_is_no_named_refusal_is_a_transport_error(
    code: grpc.StatusCode, detail: str, told: str | None, refusal: Refusal | None
) -> None:
    async def hello(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(((TRAILER, told),) if told else ())
        if code is not grpc.StatusCode.OK:
            await context.abort(code, detail)
        return b"fine"

    methods = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
    other = grpc.aio.server()
    other.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peermerge.v1.Peer", methods),))
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with serving() as client:
        if refusal is None:
            assert await client.hello(f"127.0.0.1:{port}", b"", timeout_s=10) == b"fine"
        else:
            with pytest.raises(TransportError) as raised:
                await client.hello(f"127.0.0.1:{port}", b"", timeout_s=10)
            assert raised.value.refusal is refusal
    await other.stop(None)


async def test_giant_metadata_is_refused() -> None:
    async with raw_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/peermerge.v1.Peer/Hello")(b"", timeout=10, metadata=(("x", "y" * 65536),))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary_unary("/peermerge.v1.Peer/Hello")(b"", timeout=10) == b"hello "


async def test_a_stream_that_asks_nothing_is_ended() -> None:
    handler = ScriptedHandler()
    async with raw_channel(handler, first_message_s=0.05) as channel:
        silent, empty = raw_pull(channel), raw_pull(channel)
        await empty.done_writing()
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await empty.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not handler.started.is_set()


async def test_a_connection_has_a_share_of_streams_and_leaves_the_others_theirs() -> None:
    handler = ScriptedHandler((b"one",), hang=True)
    async with serving(handler) as server, serving() as other, grpc.aio.insecure_channel(server.address) as channel:
        calls = [raw_pull(channel) for _ in range(MAX_STREAMS_PER_PEER)]
        for call in calls:
            await call.write(b"")
            assert await call.read() == b"one"
        refused = raw_pull(channel)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (TRAILER, "RATE_LIMITED") in [tuple(pair) for pair in await refused.trailing_metadata()]
        async with aclosing(other.pull(server.address, b"", timeout_s=10, stall_s=10)) as stream:
            assert await anext(stream) == b"one"
        for call in calls:
            call.cancel()
        while handler.open:
            handler.cleaned.clear()
            await handler.cleaned.wait()
        call = raw_pull(channel)
        await call.write(b"")
        assert await call.read() == b"one"
        call.cancel()


async def test_our_own_pulls_wait_for_a_free_place_and_hellos_do_not() -> None:
    handler = ScriptedHandler((b"one",))
    async with serving(handler) as server, serving() as client, AsyncExitStack() as stack:
        streams = [client.pull(server.address, b"", timeout_s=10, stall_s=10) for _ in range(MAX_STREAMS_PER_PEER)]
        for stream in streams:
            await stack.enter_async_context(aclosing(stream))
            await anext(stream)
        with pytest.raises(TransportError) as raised:
            await collect(client.pull(server.address, b"", timeout_s=0.05, stall_s=10))
        assert raised.value.refusal is Refusal.DEADLINE
        assert await client.hello(server.address, b"", timeout_s=10) == b"hello "
        waiting = asyncio.create_task(collect(client.pull(server.address, b"", timeout_s=10, stall_s=10)))
        await streams[0].aclose()
        assert await waiting == [b"one"]


async def test_a_pair_with_certificates_talks(tmp_path: Path) -> None:
    mine, theirs = (self_signed(tmp_path, name) for name in ("mine", "theirs"))
    trusting = [replace(own, roots=mine.roots + theirs.roots) for own in (mine, theirs)]
    chunks = (bytes(CHUNK_BYTES), b"end")
    async with serving(ScriptedHandler(chunks), tls=trusting[0]) as server, serving(tls=trusting[1]) as client:
        assert await client.hello(server.address, b"tls", timeout_s=10) == b"hello tls"
        assert await collect(client.pull(server.address, b"", timeout_s=10, stall_s=10)) == list(chunks)


async def test_who_has_no_certificate_or_a_strange_one_is_refused_on_either_side(tmp_path: Path) -> None:
    mine, strange = (self_signed(tmp_path, name) for name in ("mine", "strange"))
    handler = ScriptedHandler()
    async with serving(handler, tls=mine) as server, serving() as plain:
        for own in (None, strange, replace(strange, roots=mine.roots), replace(mine, roots=strange.roots)):
            async with serving(tls=own) as client:
                with pytest.raises(TransportError) as raised:
                    await client.hello(server.address, b"", timeout_s=10)
                assert raised.value.refusal is Refusal.TRANSPORT
        async with serving(tls=mine) as client:
            with pytest.raises(TransportError):
                await client.hello(plain.address, b"", timeout_s=10)
            assert await client.hello(server.address, b"", timeout_s=10) == b"hello "


def test_a_private_key_is_not_printed(tmp_path: Path) -> None:
    own = self_signed(tmp_path, "own")
    assert "PRIVATE" in own.key.decode()
    assert "PRIVATE" not in repr(own)


async def test_closing_twice_or_before_serving_does_no_harm() -> None:
    transport = GrpcTransport("127.0.0.1:0")
    await transport.close()
    await transport.close()
