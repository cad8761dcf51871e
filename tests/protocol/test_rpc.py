"""Services built from descriptors, shown on the descriptor of grpc.health.v1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from peermerge.protocol.answering import Watch
from peermerge.protocol.errors import PeerError, Refusal, TransportError
from peermerge.protocol.rpc import Stub, handlers

HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]


class Clinic:
    """Say SERVING to everybody but those who ask for trouble."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def check(self, request: Any, context: Any) -> Any:
        if request.service == "refuse":
            raise PeerError(Refusal.REVOKED, "no entry")
        if request.service == "break":
            raise KeyError("secret")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for _ in range(3):
                yield await self.check(request, context)
            if request.service == "hang":
                await asyncio.Event().wait()
        finally:
            self.left.set()

    async def list(self, request: Any, context: Any) -> Any:
        return health_pb2.HealthCheckResponse()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def clinic() -> Clinic:
    return Clinic()


@pytest.fixture
async def channel(watch: Watch, clinic: Clinic) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(HEALTH, clinic, watch),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    await server.stop(None)


def ask(service: str = "") -> Any:
    """Return a request."""
    return health_pb2.HealthCheckRequest(service=service)


async def test_a_method_returns_its_reply(channel: grpc.aio.Channel) -> None:
    reply = await Stub(channel, HEALTH).call("Check", ask(), 10)
    assert reply == health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def test_a_streaming_method_yields_its_replies(channel: grpc.aio.Channel) -> None:
    replies = [reply async for reply in Stub(channel, HEALTH).stream("Watch", ask(), 10)]
    assert len(replies) == 3


async def test_a_refusal_arrives_as_itself(channel: grpc.aio.Channel, watch: Watch) -> None:
    with pytest.raises(PeerError, match="no entry") as raised:
        await Stub(channel, HEALTH).call("Check", ask("refuse"), 10)
    with pytest.raises(PeerError, match="no entry"):
        await anext(Stub(channel, HEALTH).stream("Watch", ask("refuse"), 10))
    assert raised.value.refusal is Refusal.REVOKED
    assert not watch.failures


async def test_an_unforeseen_exception_is_kept_and_not_told(channel: grpc.aio.Channel, watch: Watch) -> None:
    with pytest.raises(TransportError, match="my handler failed"):
        await Stub(channel, HEALTH).call("Check", ask("break"), 10)
    with pytest.raises(TransportError, match="my handler failed"):
        await anext(Stub(channel, HEALTH).stream("Watch", ask("break"), 10))
    assert len(watch.failures) == 2


async def test_bytes_that_are_no_request_are_refused(channel: grpc.aio.Channel) -> None:
    for method in (
        channel.unary_unary("/grpc.health.v1.Health/Check"),
        channel.unary_unary("/grpc.health.v1.Health/Watch"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(b"\xff\xff", timeout=10)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_a_caller_that_opens_a_call_and_says_nothing_is_sent_away(clinic: Clinic, method: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(HEALTH, clinic, first_message_s=0.1),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        silent = channel.stream_stream(f"/grpc.health.v1.Health/{method}")(timeout=10)
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no request came" in await silent.details()
        assert await Stub(channel, HEALTH).call("Check", ask(), 10)
    await server.stop(None)


async def test_the_generator_is_closed_when_the_reader_stops(channel: grpc.aio.Channel, clinic: Clinic) -> None:
    async with aclosing(Stub(channel, HEALTH).stream("Watch", ask("hang"), 10)) as replies:
        await anext(replies)
    await clinic.left.wait()


async def test_a_silent_stream_ends_at_its_deadline(channel: grpc.aio.Channel, clinic: Clinic) -> None:
    with pytest.raises(TransportError) as raised:
        _ = [reply async for reply in Stub(channel, HEALTH).stream("Watch", ask("hang"), 0.1)]
    assert raised.value.refusal is Refusal.DEADLINE
    await clinic.left.wait()


def test_a_missing_method_or_streamed_requests_are_told_at_once() -> None:
    with pytest.raises(TypeError, match="needs a method check"):
        handlers(HEALTH, object())
    reflection: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    with pytest.raises(TypeError, match="server_reflection_info"):
        handlers(reflection, object())
