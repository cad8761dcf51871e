"""`peermerge status`: what a running node says about itself, once or as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ...protocol.addresses import Address, parse_address

if TYPE_CHECKING:
    from ...protocol.wire_pb2 import StatusReply

STATUS_S = 5.0
WATCH_S = 365 * 86400.0
"""gRPC wants a deadline even of a stream that has none."""


def status(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the node listens.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw at every change until Ctrl-C.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print protobuf JSON; with --watch one object per line.")
    ] = False,
) -> None:
    """Show what a node is doing: round, metrics, traffic, and every peer with what was left out and why."""
    target = parse_address(address)
    if not watch:
        asyncio.run(_once(target, json))
        return
    try:
        asyncio.run(_watch(target, json))
    except KeyboardInterrupt:
        raise typer.Exit from None  # the way a watch ends


async def _once(address: Address, json: bool) -> None:
    from ...protocol.remote import as_json, dial
    from ...protocol.wire_pb2 import StatusRequest

    async with dial(address, "Status") as stub:
        reply = await stub.call("Get", StatusRequest(), STATUS_S)
    if json:
        typer.echo(as_json(reply, indent=2))
    else:
        from rich.console import Console

        from .screen import screen

        Console().print(screen(reply))


async def _watch(address: Address, json: bool) -> None:
    async with aclosing(_replies(address)) as replies:
        if json:
            from ...protocol.remote import as_json

            async for reply in replies:
                typer.echo(as_json(reply))
            return
        from rich.live import Live

        from .screen import screen

        with Live(auto_refresh=False) as live:
            async for reply in replies:
                live.update(screen(reply), refresh=True)


async def _replies(address: Address) -> AsyncGenerator[StatusReply, None]:
    from ...protocol.remote import dial
    from ...protocol.wire_pb2 import StatusRequest

    async with (
        dial(address, "Status") as stub,
        aclosing(stub.stream("Watch", StatusRequest(), WATCH_S)) as replies,
    ):
        async for reply in replies:
            yield reply
