"""Refusals as gRPC statuses, and back.

The status code is for tools that know only gRPC; the refusal's name travels in the trailing metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from .answering import told_refusal
from .errors import PeerError, Refusal, TransportError

TRAILER: Final = "peermerge-refusal"
_MAX_DETAIL: Final = 256

CODES: Final[dict[Refusal, grpc.StatusCode]] = {
    Refusal.TRANSPORT: grpc.StatusCode.UNAVAILABLE,
    Refusal.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refusal.TRUNCATED: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.DIGEST_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BAD_MAGIC: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.UNSUPPORTED_VERSION: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.OVERSIZE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.DECOMPRESS: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BAD_HEADER: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.UNKNOWN_TENSOR: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BAD_SHAPE: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BAD_DTYPE: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BAD_INDEX: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.NON_FINITE: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.NORM_OUTLIER: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BASE_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.NETWORK_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.BAD_SIGNATURE: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.UNKNOWN_SENDER: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.REVOKED: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.REPLAYED: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.FUTURE_ROUND: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.DUPLICATE_ID: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.BUDGET_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.OUT_OF_BASIN: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.MANIFEST_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.EQUIVOCATION: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.OVERFLOW: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.OUT_OF_SEQUENCE: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.NO_STATISTICS: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.ONE_SIDED: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.OTHER_VIEW: grpc.StatusCode.FAILED_PRECONDITION,
}


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: PeerError) -> None:
    """End a call on the server's side with the refusal's code, detail and name; its handler has only to return."""
    try:
        await context.abort(CODES[error.refusal], _tidy(error.detail), ((TRAILER, error.refusal.name),))
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call and raises it again. What led to the refusal must not stay with it, in a cycle:
        # a failed call of our own, say, whose channel would live on and dial the peer when it is back.
        aborted.__context__ = aborted.__traceback__ = None


def received(failure: grpc.aio.AioRpcError) -> PeerError:
    """Return the refusal a peer named, or what gRPC's own failure amounts to."""
    code, detail = failure.code(), _tidy(failure.details() or "")
    for key, value in failure.trailing_metadata() or ():
        if key == TRAILER and value in Refusal.__members__:
            return told_refusal(Refusal[str(value)], detail)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TransportError(Refusal.DEADLINE)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        busy = "oncurrent" in detail
        return TransportError(Refusal.RATE_LIMITED if busy else Refusal.OVERSIZE, detail)
    return TransportError(Refusal.TRANSPORT, f"{code.name}: {detail}")


@contextmanager
def receiving() -> Iterator[None]:
    """Turn gRPC's failures of one call into PeerErrors."""
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        raise received(failure) from failure
    except grpc.aio.UsageError as failure:
        raise TransportError(Refusal.TRANSPORT, "the channel is closed") from failure
    except asyncio.CancelledError:
        # gRPC raises this too when our own channel closes: nobody cancelled this task then.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise TransportError(Refusal.TRANSPORT, "the channel was closed") from None


def _tidy(detail: str) -> str:
    """Keep a peer's text short and on one line of a log."""
    return "".join(c if c.isprintable() else " " for c in detail[:_MAX_DETAIL])
