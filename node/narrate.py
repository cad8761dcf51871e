"""What a node's terminal shows: one line for each event that a person cares about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..protocol.output import members
from .events import Events

ARRIVALS = {"alive": "is here", "suspect": "is here, as others say", "dead": "is held for dead", "left": "has left"}


class Narrated:
    """Passes events on and says the telling ones in a sentence."""

    def __init__(self, events: Events, rounds: int, say: Callable[[str], None]) -> None:
        self._events = events
        self._rounds = rounds
        self._say = say

    def emit(self, event: str, **fields: Any) -> None:
        """Record and narrate."""
        self._events.emit(event, **fields)
        if (line := sentence(event, fields, self._rounds)) is not None:
            self._say(line)


def sentence(event: str, fields: dict[str, Any], rounds: int) -> str | None:
    """Return the line for an event, or None for those that only the event log keeps."""
    match event:
        case "start":
            return f"serving on {fields['address']}, at round {fields['round']}; waiting for the peers"
        case "base":
            return f"fetched the base {fields['sha256']}"
        case "catch_up":
            return f"caught up with {len(fields['pulled'])} neighbours: goes on at round {fields['round']}"
        case "missing":
            return f"going on without {', '.join(fields['addresses'])}"
        case "round":
            return _round(fields, rounds)
        case "view" if there := fields["members"]:  # none: it is we who leave
            return f"{fields['name']} {ARRIVALS[fields['state']]}: {members(there)}"
        case "unreachable":
            return f"{fields['name']}: unreachable ({fields['reason']}); going on without it"
        case "mismatch":
            return f"{fields['address']} cannot be merged with: {fields['reason']}; {fields['cure']}"
        case "suspect":
            return f"{fields['name']} does not answer; asking others"
        case "log_epoch":
            return f"history was lost: log epoch {fields['epoch']} begins with a snapshot"
        case "degraded":
            return f"DEGRADED: {fields['reason']}; training goes on"
        case "finished":
            return "all rounds done; serving until the neighbours have the last version"
        case "stop":
            return f"saved at round {fields['round']}"
    return None


def _round(fields: dict[str, Any], rounds: int) -> str:
    done = f"{fields['round'] + 1}" + (f"/{rounds}" if rounds else "")
    metrics = "".join(f", {name} {value:.4g}" for name, value in sorted(fields["metrics"].items()))
    names = ", ".join(fields["merged"]) or "nobody"
    return f"round {done}{metrics}; merged {names}; {fields['bytes_out'] / 1e6:.2f} MB sent so far"
