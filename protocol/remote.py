"""Calls to a running program's services for people to see, with failures said in one sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from .addresses import Address
from .errors import PeerError, Refusal
from .grpc_settings import CHANNEL_OPTIONS
from .rpc import Stub
from .wire_pb2 import DESCRIPTOR

_PROGRAMS: Final = {"Status": "node", "Control": "node", "Coordinator": "coordinator"}


class CallError(PeerError):
    """A call that failed; its detail is the whole sentence for the user."""

    def __str__(self) -> str:
        """Return the sentence."""
        return self.detail


@asynccontextmanager
async def dial(address: Address, service: str) -> AsyncIterator[Stub]:
    """Lend a stub for one of a program's services. Failures within become CallErrors."""
    async with channel(address) as dialled:
        with explained(address, _PROGRAMS[service]):
            yield Stub(dialled, DESCRIPTOR.services_by_name[service])


def channel(address: Address) -> grpc.aio.Channel:
    """Return a channel of its own; nothing is dialled before the first call."""
    # The scheme keeps a host called "unix" from being taken for one.
    return grpc.aio.insecure_channel(f"dns:///{address}", CHANNEL_OPTIONS)


@contextmanager
def explained(address: Address, program: str) -> Iterator[None]:
    """Turn the PeerErrors of calls into CallErrors that name the address and the cure."""
    try:
        yield
    except PeerError as error:
        raise CallError(error.refusal, sentence(address, program, error)) from error


def sentence(address: Address, program: str, error: PeerError) -> str:
    """Say in one sentence what went wrong with a call, and what helps."""
    cure = (
        f"check the address, and that the {program} runs (it writes it into the file `address` of its data directory)"
    )
    if "UNIMPLEMENTED" in error.detail:
        return f"{address} speaks gRPC but is no Peermerge {program}: {cure}"
    if error.refusal is Refusal.DEADLINE:
        return f"{address} did not answer in time: {cure}"
    if error.refusal is Refusal.TRANSPORT:
        return f"{address} cannot be reached: {cure} ({error.detail.rpartition(': ')[2]})"
    return f"{address} refused: {error}"


def as_json(reply: Message, indent: int | None = None) -> str:
    """Write a reply as protobuf JSON with the names of wire.proto; 64-bit integers are strings there."""
    return MessageToJson(
        reply,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=indent,
        sort_keys=True,
    )
