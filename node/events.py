"""What happened, one JSON object a line: for people, for the fault checker, for the report."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TextIO


class Events(Protocol):
    """Takes events. Fields are JSON values; nothing secret, nothing large."""

    def emit(self, event: str, **fields: object) -> None:
        """Record one event."""
        ...


class NoEvents:
    """Forgets."""

    def emit(self, event: str, **fields: object) -> None:
        """Do nothing."""


class EventList:
    """Keeps events in memory, without any wall time: simulations compare them byte for byte."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.events: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: object) -> None:
        """Append."""
        self.events.append({"event": event, "node": self._node, **fields})


class EventFile:
    """Appends to a JSONL file; rotates it by size; a full disk costs events, never training."""

    MAX_BYTES = 10 << 20

    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._node = node
        self._file: TextIO | None = None
        self._turn = Lock()  # the event loop and the worker thread both write
        self.lost = 0
        self._untold = 0

    def emit(self, event: str, **fields: object) -> None:
        """Write one line with the wall time; the first behind a gap says how many were `lost` in it."""
        with self._turn:
            gap = {"lost": self._untold} if self._untold else {}
            line = json.dumps({"event": event, "node": self._node, "time": round(time.time(), 3), **gap, **fields})
            try:
                self._open().write(line + "\n")
                self._untold = 0
            except OSError:
                self.lost += 1
                self._untold += 1
                self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # the event that could not be written is counted already
                file.close()

    def _open(self) -> TextIO:
        if self._file is not None and self._file.tell() > self.MAX_BYTES:
            self.close()
            self._path.replace(self._path.with_suffix(".old.jsonl"))
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torn = _torn(self._path)
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115  (kept open between events)
            self._file.write("\n" * torn)
        return self._file


def _torn(path: Path) -> bool:
    """Whether a kill or a full disk left a file's last line unfinished."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"
