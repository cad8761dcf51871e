"""What may introduce members besides greetings and gossip: a coordinator, an MQTT broker."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from ...protocol.clock import Clock
from ..config import MembershipConfig
from ..gather import Identity
from ..telemetry import Telemetry
from .coordinator import CoordinatorClient
from .presence import Presence
from .roster import Roster


class Source(Protocol):
    """A connection to something that introduces members; nothing waits for it, and it is away as often as it likes."""

    @property
    def state(self) -> str:
        """`connected` or `unreachable`."""
        ...

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        ...

    async def leave(self) -> None:
        """Say that we leave, while `run` is still under way; takes at most about half a second."""
        ...


def sources(
    settings: MembershipConfig,
    me: Identity,
    roster: Roster,
    clock: Clock,
    doubt: Callable[[str], None],
    round_: Callable[[], int],
    telemetry: Telemetry | None = None,
) -> dict[str, Source]:
    """Return those that are configured, by what the status calls them. Raises ConfigError for a bad address."""
    found: dict[str, Source] = {}
    life = f"{me.name}/{me.incarnation}"
    if settings.coordinator is not None:
        rng = Random(f"coordinator/{life}")
        found["coordinator"] = CoordinatorClient(me, roster, settings.coordinator, clock, doubt, round_, rng)
    if settings.mqtt is not None:
        found["broker"] = Presence(me, roster, settings.mqtt, clock, doubt, Random(f"broker/{life}"), telemetry)
    return found
