"""A real MQTT broker for tests: mosquitto on a free port, to be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest

DEADLINE_S = 30.0
"""Far more than anything takes: it only ends what hangs."""
PAUSE_S = 0.02


async def until(predicate: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until something holds; fail with `what` if it does not in time."""
    for _ in range(int(deadline_s / PAUSE_S)):
        if predicate():
            return
        await asyncio.sleep(PAUSE_S)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Mosquitto:
    """A broker without memory: what it retains goes when it is killed."""

    def __init__(self, folder: Path, program: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._program = program
        self._file = folder / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it listens."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([self._program, "-c", str(self._file)], stdout=quiet, stderr=quiet)
        never = Event()
        for _ in range(int(DEADLINE_S / PAUSE_S)):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            never.wait(PAUSE_S)
        raise AssertionError(f"mosquitto does not listen on port {self.port}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """Run a broker; skip the test where it is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(folder, program)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
