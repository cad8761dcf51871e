"""What a simulation leaves, whichever network it ran on, and who watches it on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ...protocol.errors import PeermergeError


class NodeFailed(PeermergeError):
    """A node of a simulation did not finish its rounds; the message names it and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutcome:
    """One node as it ended."""

    name: str
    finished_rounds: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Its last evaluation."""
    bytes_out: int = 0
    """All application bytes sent to peers: frames with their headers, greetings, requests."""
    links: Mapping[str, int] = field(default_factory=dict)
    """The same by peer; empty where it is not known."""
    seconds_per_round: float | None = None
    """Real seconds a merging round took beyond training and evaluation."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Its floating-point tensors; empty if it left none."""
    failure: str = ""
    """Why it did not finish: the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All nodes as they ended, and every event."""

    nodes: list[NodeOutcome]
    events: list[dict[str, Any]]


class Observer(Protocol):
    """Is told how a simulation gets on."""

    def phase(self, title: str, rounds: int) -> None:
        """Another part begins, with so many rounds over all its nodes (0: a part that is no rounds)."""
        ...

    def advance(self, title: str, done: int, total: int) -> None:
        """So much of a part without rounds is done."""
        ...

    def round(self, node: str, round_: int, fields: Mapping[str, Any]) -> None:
        """A node has ended a round; `fields` are those of its event."""
        ...

    def note(self, text: str) -> None:
        """Something a person should read."""
        ...


class Unobserved:
    """Nobody watches."""

    def phase(self, title: str, rounds: int) -> None:
        """Do nothing."""

    def advance(self, title: str, done: int, total: int) -> None:
        """Do nothing."""

    def round(self, node: str, round_: int, fields: Mapping[str, Any]) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
