"""`peermerge control`: tell a running node what to do."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from ...protocol.addresses import Address, parse_address
from ...protocol.output import plain

CONTROL_S = 120.0
"""A checkpoint waits for the training steps under way."""


class Action(StrEnum):
    """What a node can be told; the names are those of the service `Control`, in lower case."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    LEAVE = "leave"


def control(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the node listens.")],
    action: Annotated[Action, typer.Argument(help="What it shall do.")],
) -> None:
    """Pause or resume a node on this machine, let it save a checkpoint, or let it save and leave."""
    typer.echo(plain(asyncio.run(_call(parse_address(address), action))))


async def _call(address: Address, action: Action) -> str:
    from ...protocol.remote import dial
    from ...protocol.wire_pb2 import ControlReply, ControlRequest

    async with dial(address, "Control") as stub:
        reply: ControlReply = await stub.call(action.value.capitalize(), ControlRequest(), CONTROL_S)
    return reply.message
