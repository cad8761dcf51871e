"""Figures for whoever listens at the broker: chosen events as JSON, in a bounded queue that never makes a node wait."""

from __future__ import annotations

import json
import time
from collections import deque
from threading import Lock

from .events import Events

TOLD = frozenset({"round", "degraded", "view", "finished", "stop"})
MAX_QUEUED = 1_000
MAX_BYTES = 1 << 16
"""A larger message is dropped: a round's figures take some hundred bytes, and some tens for each neighbour."""


class Telemetry:
    """Passes events on and queues the chosen ones until somebody publishes them."""

    def __init__(self, events: Events, node: str) -> None:
        self._events = events
        self._node = node
        self._queue: deque[bytes] = deque()
        self._turn = Lock()  # the event loop and the worker thread both emit
        self.dropped = 0
        """Messages that were never published: the oldest, while no broker took them."""

    def emit(self, event: str, **fields: object) -> None:
        """Record, and queue if it is one that is told; any thread may call."""
        self._events.emit(event, **fields)
        if event in TOLD:
            told = {"event": event, "node": self._node, "time": round(time.time(), 3), **fields}
            self._put(json.dumps(told).encode())

    def oldest(self) -> bytes | None:
        """Return the message that has waited longest, if there is one; it waits on until it is `sent`."""
        with self._turn:
            return self._queue[0] if self._queue else None

    def sent(self, message: bytes) -> None:
        """Let go of the oldest message, unless the queue dropped it meanwhile."""
        with self._turn:
            if self._queue and self._queue[0] is message:
                self._queue.popleft()

    def _put(self, message: bytes) -> None:
        with self._turn:
            if len(message) > MAX_BYTES:
                self.dropped += 1
                return
            if len(self._queue) == MAX_QUEUED:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(message)
