"""The server side of `peermerge.v1.Peer`: raw bytes in and out of a PeerHandler."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial

import grpc

from .answering import Watch, checked_message, first_message
from .errors import PeerError, Refusal
from .grpc_channels import PEER_SERVICE
from .grpc_settings import FIRST_MESSAGE_S
from .grpc_status import refuse
from .limits import MAX_STREAMS_PER_PEER
from .transport import PeerHandler


class Door:
    """Answer Hello, Gossip and Pull. All read their one request themselves, to give up on silent streams."""

    def __init__(self, handler: PeerHandler, watch: Watch, first_message_s: float = FIRST_MESSAGE_S) -> None:
        self._handler = handler
        self._watch = watch
        self._first_message_s = first_message_s
        self._streams: Counter[str] = Counter()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for a grpc.aio server; without serializers: messages are bytes."""
        return grpc.method_handlers_generic_handler(
            PEER_SERVICE,
            {
                "Hello": grpc.stream_unary_rpc_method_handler(partial(self._answer, self._handler.hello)),
                "Gossip": grpc.stream_unary_rpc_method_handler(partial(self._answer, self._handler.gossip)),
                "Pull": grpc.stream_stream_rpc_method_handler(self._pull),
            },
        )

    async def _answer(
        self,
        answer: Callable[[bytes], Awaitable[bytes]],
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> bytes:
        try:
            request = await first_message(requests, self._first_message_s)
            with self._watch:
                return checked_message(await answer(request))
        except PeerError as refusal:
            await refuse(context, refusal)
            return b""

    async def _pull(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        # No generator: gRPC would leave it to the collector when the client vanishes during a write.
        try:
            with self._place(context.peer()):
                request = await first_message(requests, self._first_message_s)
                async with aclosing(self._watch.stream(self._handler.pull, request)) as messages:
                    async for message in messages:
                        await context.write(checked_message(message))
        except PeerError as refusal:
            await refuse(context, refusal)

    @contextmanager
    def _place(self, connection: str) -> Iterator[None]:
        if self._streams[connection] >= MAX_STREAMS_PER_PEER:
            raise PeerError(Refusal.RATE_LIMITED, f"{MAX_STREAMS_PER_PEER} pulls at one time")
        self._streams[connection] += 1
        try:
            yield
        finally:
            self._streams[connection] -= 1
            if not self._streams[connection]:
                del self._streams[connection]
