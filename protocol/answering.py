"""What both transports do with a handler at work: watch it, and clean up after it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, TypeVar

from .errors import PeerError, Refusal, TransportError
from .limits import MAX_MESSAGE_BYTES

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Watch:
    """Guard handlers: a refusal passes; what nobody foresaw is logged, kept, and told as a TransportError.

    The caller learns nothing of such a failure; a supervisor finds it in `failures` and may end the process.
    """

    def __init__(self) -> None:
        self.failures: deque[Exception] = deque(maxlen=64)

    def __enter__(self) -> None:
        """Start watching."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let refusals, cancellation and success pass; record the rest."""
        if isinstance(error, Exception) and not isinstance(error, PeerError):
            self.failures.append(error)
            _log.error("a handler failed", exc_info=error)
            raise TransportError(Refusal.TRANSPORT, "my handler failed") from error

    async def stream(self, method: Callable[..., AsyncIterator[T]], *arguments: Any) -> AsyncGenerator[T, None]:
        """Run a streaming handler under watch; its cleanup runs as soon as this generator is closed."""
        with self:
            stream = method(*arguments)
            try:
                async for item in stream:
                    yield item
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()


async def first_message(messages: AsyncIterator[bytes], limit_s: float) -> bytes:
    """Return the one request of a call; a caller that opens one and says nothing does not keep us for ever."""
    try:
        async with asyncio.timeout(limit_s):
            message: object = await anext(messages, None)
    except TimeoutError:
        raise TransportError(Refusal.DEADLINE, "no request came") from None
    if not isinstance(message, bytes):
        raise PeerError(Refusal.TRUNCATED, "no request came")
    return message


def told_refusal(refusal: Refusal, detail: str) -> PeerError:
    """Rebuild the error a peer told us about."""
    kind = TransportError if refusal in (Refusal.TRANSPORT, Refusal.DEADLINE) else PeerError
    return kind(refusal, detail)


def checked_message(message: bytes) -> bytes:
    """Return the message, or raise TransportError if it is larger than peers accept."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise TransportError(Refusal.OVERSIZE, f"a message of {len(message)} bytes")
    return message
