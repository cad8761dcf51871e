"""Calls to a running node's Status and Control services, with failures said in one sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import grpc

from ...protocol.addresses import Address
from ...protocol.errors import PeerError, Refusal
from ...protocol.grpc_settings import CHANNEL_OPTIONS
from ...protocol.rpc import Stub
from ...protocol.wire_pb2 import DESCRIPTOR

_CURE: Final = "check the address, and that the node runs (it writes it into the file `address` of its data directory)"


class CallError(PeerError):
    """A call that failed; its detail is the whole sentence for the user."""

    def __str__(self) -> str:
        """Return the sentence."""
        return self.detail


@asynccontextmanager
async def dial(address: Address, service: str) -> AsyncIterator[Stub]:
    """Lend a stub for one of a node's services. Failures within become CallErrors."""
    # The scheme keeps a host called "unix" from being taken for one.
    async with grpc.aio.insecure_channel(f"dns:///{address}", CHANNEL_OPTIONS) as channel:
        with explained(address):
            yield Stub(channel, DESCRIPTOR.services_by_name[service])


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turn the PeerErrors of calls into CallErrors that name the address and the cure."""
    try:
        yield
    except PeerError as error:
        raise CallError(error.refusal, sentence(address, error)) from error


def sentence(address: Address, error: PeerError) -> str:
    """Say in one sentence what went wrong with a call, and what helps."""
    if "UNIMPLEMENTED" in error.detail:
        return f"{address} speaks gRPC but is no Peermerge node: {_CURE}"
    if error.refusal is Refusal.DEADLINE:
        return f"{address} did not answer in time: {_CURE}"
    if error.refusal is Refusal.TRANSPORT:
        return f"{address} cannot be reached: {_CURE} ({error.detail.rpartition(': ')[2]})"
    return f"{address} refused: {error}"
