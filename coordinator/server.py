"""A coordinator as a process: data directory, doors, signals, and a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..protocol.addresses import check_private
from ..protocol.answering import Watch
from ..protocol.clock import Clock, RealClock
from ..protocol.errors import DataDirError
from ..protocol.exit_codes import ExitCode
from ..protocol.grpc_server import GrpcServer
from ..protocol.grpc_settings import MAX_CONCURRENT_RPCS
from ..protocol.prometheus import open_page
from ..protocol.rpc import handlers
from ..protocol.suggestions import write
from ..protocol.wire_pb2 import DESCRIPTOR
from .config import CoordinatorConfig
from .metrics import CoordinatorCollector
from .roster import Roster
from .saver import Saver
from .service import MAX_WATCHES, CoordinatorService
from .store import Store

ROSTER = "roster.sqlite"
SERVICE = DESCRIPTOR.services_by_name["Coordinator"]
MAX_REQUEST_BYTES = 4096
"""A claim, its run and some numbers."""
TICKS = 4
"""In each heartbeat it is looked so often who has been silent for too long."""


def start(config: CoordinatorConfig) -> None:
    """Serve until told to stop. Raises PeermergeError."""
    if not config.insecure:
        check_private({"--listen": config.listen, "--metrics": config.metrics}, "--insecure")
    suggestions = {key: write(key, value) for key, value in config.suggest.items()}
    asyncio.run(_main(config, suggestions, partial(print, file=sys.stderr, flush=True)))


async def _main(config: CoordinatorConfig, suggestions: dict[str, str], say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    coordinator = Coordinator(config, suggestions)
    try:
        await coordinator.begin()
        say(f"peermerge-coordinator listens on {coordinator.address}, data in {config.data_dir}; Ctrl-C ends it")
        await coordinator.run(stop)
    finally:
        await coordinator.end()


class Coordinator:
    """The roster with its file, its door and its page."""

    def __init__(self, config: CoordinatorConfig, suggestions: dict[str, str]) -> None:
        self._config = config
        self._folder = Path(config.data_dir)
        self._clock: Clock = RealClock()
        self._roster = Roster(config.heartbeat_s, config.patience_s)
        self._store = Store(self._folder / ROSTER)
        self._saver = Saver(self._roster, self._store, self._clock)
        self._service = CoordinatorService(self._roster, self._saver, self._clock, config.heartbeat_s, suggestions)
        self._watch = Watch()
        self._server = GrpcServer(
            config.listen,
            [SERVICE.full_name],
            reflection_names=[SERVICE.full_name],
            max_rpcs=MAX_WATCHES + MAX_CONCURRENT_RPCS,
            max_request_bytes=MAX_REQUEST_BYTES,
        )
        self._page: Any = None

    @property
    def address(self) -> str:
        """Where this machine reaches it."""
        return self._server.address

    async def begin(self) -> None:
        """Load what was saved and open the doors. Raises PeermergeError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataDirError(
                f"{self._folder}: cannot be used as a data directory: {error.strerror or error}; "
                "make it writable for this user or choose another --data-dir"
            ) from error
        await self._saver.restore()
        await self._server.start([handlers(SERVICE, self._service, self._watch)])
        if self._config.metrics:
            self._page = open_page(self._config.metrics, CoordinatorCollector(self._roster, self._service))
        with suppress(OSError):  # for people; the saver tells of a disk that refuses
            (self._folder / "address").write_text(self.address)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop; raises what a task of ours died of."""
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._saver.run(), name="saver"),
                tasks.create_task(self._expire(), name="expiry"),
            ]
            await stop.wait()
            for task in background:
                task.cancel()

    async def end(self) -> None:
        """Close the doors, then write what is not yet on disk."""
        await self._server.close()
        if self._page is not None:
            self._page[0].shutdown()
            self._page[0].server_close()
        if self._roster.unsaved:
            await self._saver.save()
        await self._clock.work(self._store.close)
        self._clock.close()

    async def _expire(self) -> None:
        tick = self._config.heartbeat_s / TICKS
        while True:
            before = self._clock.now()
            await self._clock.sleep(tick)
            late = self._clock.now() - before - tick
            if late > tick:
                self._roster.forgive(late)
            self._roster.expire(self._clock.now())
            await self._saver.saved()


def _on_signals(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM end the coordinator cleanly; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            os._exit(ExitCode.INTERRUPTED)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
