"""How nodes reach each other: the small interface, and what both implementations keep.

`GrpcTransport` and `MemoryNetwork.transport()` carry the same bytes. A transport knows addresses and
bytes; it knows nothing of frames, rounds or models.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol


class PeerHandler(Protocol):
    """What a node answers. Hello and Pull serve immutable bytes and never wait on another call."""

    async def hello(self, request: bytes) -> bytes:
        """Answer a serialized Hello with our own; raise PeerError to refuse."""
        ...

    async def gossip(self, request: bytes) -> bytes:
        """Answer a serialized Gossip; it may ask one other node on the asker's behalf, within a bound."""
        ...

    def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Answer a serialized PullRequest with messages of at most MAX_MESSAGE_BYTES; raise PeerError to refuse."""
        ...


class Transport(Protocol):
    """Calls to peers and the door for theirs. Every call has a deadline; failures are PeerErrors.

    A refusal raised by the other side's handler arrives here as a PeerError with the same `refusal`.
    """

    @property
    def address(self) -> str:
        """Where peers reach us; known once `serve` returned."""
        ...

    async def serve(self, handler: PeerHandler) -> None:
        """Open the door. Raises ConfigError if the address cannot be bound."""
        ...

    async def hello(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Exchange Hellos with the node at `address`."""
        ...

    async def gossip(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Exchange Gossip with the node at `address`."""
        ...

    def pull(self, address: str, request: bytes, *, timeout_s: float, stall_s: float) -> AsyncGenerator[bytes]:
        """Stream what the node at `address` has for us; the call ends with the generator.

        Ends with TransportError(DEADLINE) after `timeout_s` in all, or when no byte came for `stall_s`
        after the first message.
        """
        ...

    async def close(self) -> None:
        """Close door and channels; calls under way end with TransportError on the other side."""
        ...
