"""Protobuf services over grpc.aio, built from descriptors: no generated _grpc module is needed.

Methods have one request; their reply is one message or a stream, as the descriptor says.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from .answering import Watch, first_message
from .errors import PeerError, Refusal
from .grpc_settings import FIRST_MESSAGE_S
from .grpc_status import receiving, refuse

_Behaviour = Callable[[AsyncIterator[bytes], Any], Awaitable[bytes | None]]


def handlers(
    service: ServiceDescriptor,
    implementation: object,
    watch: Watch | None = None,
    first_message_s: float = FIRST_MESSAGE_S,
) -> grpc.GenericRpcHandler:
    """Serve `service` by the implementation's methods, named as in the descriptor but in snake_case.

    Each takes (request, context): `async def get(request, context) -> reply` or an async generator of
    replies. They refuse by raising PeerError; anything else they raise is kept in `watch.failures`.
    Raises TypeError if a method is missing or streams its requests.
    """
    watch = watch or Watch()
    table = {method.name: _handler(method, implementation, watch, first_message_s) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, table)


class Stub:
    """Call the methods of `service` on a grpc.aio channel; failures are PeerErrors."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        self._channel = channel
        self._service = service

    async def call(self, method: str, request: Message, timeout_s: float) -> Any:
        """Return the one reply, a message of the method's output type."""
        invoke = self._channel.unary_unary(f"/{self._service.full_name}/{method}")
        with receiving():
            reply: bytes = await invoke(request.SerializeToString(), timeout=timeout_s)
        return _parsed(self._service.methods_by_name[method].output_type, reply)

    async def stream(self, method: str, request: Message, timeout_s: float) -> AsyncGenerator[Any, None]:
        """Yield the replies until the peer ends the stream; DEADLINE after `timeout_s`."""
        invoke = self._channel.unary_stream(f"/{self._service.full_name}/{method}")
        call = invoke(request.SerializeToString(), timeout=timeout_s)
        try:
            while True:
                with receiving():
                    reply = await call.read()
                if not isinstance(reply, bytes):
                    return
                yield _parsed(self._service.methods_by_name[method].output_type, reply)
        finally:
            call.cancel()


def _handler(
    method: MethodDescriptor, implementation: object, watch: Watch, first_message_s: float
) -> grpc.RpcMethodHandler:
    # To gRPC all are streams of requests: so we read the one ourselves, and give up on silent callers.
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", method.name).lower()
    function = getattr(implementation, name, None)
    if function is None or method.client_streaming:
        raise TypeError(f"{method.full_name}: needs a method {name}, and one request")
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(_streaming(method, function, watch, first_message_s))
    return grpc.stream_unary_rpc_method_handler(_single(method, function, watch, first_message_s))


def _single(
    method: MethodDescriptor, function: Callable[..., Awaitable[Message]], watch: Watch, first_message_s: float
) -> _Behaviour:
    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            message = _parsed(method.input_type, await first_message(requests, first_message_s))
            with watch:
                return (await function(message, context)).SerializeToString()
        except PeerError as refusal:
            await refuse(context, refusal)
            return b""

    return answer


def _streaming(
    method: MethodDescriptor, function: Callable[..., Any], watch: Watch, first_message_s: float
) -> _Behaviour:
    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            message = _parsed(method.input_type, await first_message(requests, first_message_s))
            async with aclosing(watch.stream(function, message, context)) as replies:
                async for reply in replies:
                    await context.write(reply.SerializeToString())
        except PeerError as refusal:
            await refuse(context, refusal)

    return answer


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return GetMessageClass(kind).FromString(data)
    except DecodeError:
        raise PeerError(Refusal.BAD_HEADER, f"not a {kind.full_name}") from None
