"""The connections of a node to what may introduce members: a coordinator, a broker; from the first try to the end."""

from __future__ import annotations

import asyncio
from functools import partial

from .membership.coordinator import CoordinatorClient
from .membership.sources import sources
from .participant import Participant
from .supervise import Background
from .telemetry import Telemetry


class Connections(Background):
    """The tasks that keep them. They outlive other background work: they are still to tell that we leave."""

    async def open(self, node: Participant, telemetry: Telemetry | None) -> None:
        """Begin to connect; return once a coordinator, if there is one, was given a try. Raises ConfigError."""
        node.sources = sources(
            node.config.membership,
            node.identity,
            node.membership,
            node.clock,
            node.gossip.doubt,
            lambda: node.round,
            telemetry,
        )
        if telemetry is not None:
            node.telemetry_dropped = partial(getattr, telemetry, "dropped")
        for name, source in node.sources.items():
            self.start(name, source.run())
        if isinstance(coordinator := node.sources.get("coordinator"), CoordinatorClient):
            await coordinator.tried.wait()
            if coordinator.state == "unreachable":
                node.events.emit("unreachable", name="coordinator", reason=coordinator.trouble)

    async def leave(self, node: Participant) -> None:
        """Say everywhere that we leave, then end."""
        await asyncio.gather(*(source.leave() for source in node.sources.values()))
        await self.end()
