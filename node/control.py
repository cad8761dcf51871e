"""Commands to a running node: pause, resume, checkpoint, leave. Only from this machine."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from ..protocol import wire_pb2 as wire
from ..protocol.errors import DegradedError, EnvelopeError, Refusal, TransportError
from .participant import Participant


class Controls:
    """What the commands act on."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.running.set()
        self.stop = asyncio.Event()


class ControlService:
    """The gRPC service `Control` of one node."""

    def __init__(self, node: Participant, controls: Controls) -> None:
        self._node = node
        self._controls = controls

    async def pause(self, _request: wire.ControlRequest, context: Any) -> wire.ControlReply:
        """Stop before the next round; peers are still served."""
        _local(context)
        self._controls.running.clear()
        return wire.ControlReply(message=f"pausing after round {self._node.round}")

    async def resume(self, _request: wire.ControlRequest, context: Any) -> wire.ControlReply:
        """Go on."""
        _local(context)
        self._controls.running.set()
        return wire.ControlReply(message=f"resuming at round {self._node.round}")

    async def checkpoint(self, _request: wire.ControlRequest, context: Any) -> wire.ControlReply:
        """Save now (after the training steps under way)."""
        _local(context)
        try:
            await self._node.clock.work(self._node.save)
        except DegradedError as error:
            raise TransportError(Refusal.BUDGET_EXCEEDED, str(error)) from error
        return wire.ControlReply(message=f"saved at round {self._node.round}")

    async def leave(self, _request: wire.ControlRequest, context: Any) -> wire.ControlReply:
        """Save and end the process."""
        _local(context)
        self._controls.stop.set()
        return wire.ControlReply(message="leaving")


def _local(context: Any) -> None:
    """Refuse callers from other machines."""
    peer = unquote(context.peer())
    if not peer.startswith(("ipv4:127.", "ipv6:[::1]", "unix:")):
        raise EnvelopeError(Refusal.UNKNOWN_SENDER, "control is for callers on this machine")
