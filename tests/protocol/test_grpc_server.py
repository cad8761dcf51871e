"""A server that closes leaves nothing behind."""

from __future__ import annotations

import asyncio

import grpc

from peermerge.protocol.grpc_server import GrpcServer

METHOD = "/test.Service/Wait"


class Waiting:
    """A handler that answers nobody."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cleaned_up = 0

    async def wait(self, _request: bytes, _context: object) -> bytes:
        """Wait for ever; the cleanup takes a turn of the loop."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned_up += 1
        return b""


async def test_a_server_has_closed_once_its_handlers_have_cleaned_up() -> None:
    waiting = Waiting()
    table = {"Wait": grpc.unary_unary_rpc_method_handler(waiting.wait)}
    server = GrpcServer("127.0.0.1:0", [])
    await server.start([grpc.method_handlers_generic_handler("test.Service", table)])
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(METHOD)(b"", timeout=10.0)
        await waiting.began.wait()
        await server.close()
        assert waiting.cleaned_up == 1
        assert await call.code() is not grpc.StatusCode.OK
