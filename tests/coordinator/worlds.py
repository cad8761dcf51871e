"""Coordinators to talk to: within the test's process, or as a process that can be hurt."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from peermerge.coordinator.config import CoordinatorConfig
from peermerge.coordinator.server import SERVICE, Coordinator
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.addresses import parse_address
from peermerge.protocol.members import Member
from peermerge.protocol.remote import channel
from peermerge.protocol.rpc import Stub

KEY = ("net", "run")
CALL_S = 10.0
DEADLINE_S = 30.0
"""Far more than anything takes on an idle machine: it only ends what hangs."""


def claim(name: str, port: int = 1, incarnation: int = 1, refuted: int = 0) -> Member:
    """Return what a member says of itself."""
    return Member(name, f"127.0.0.1:{port}", incarnation, refuted)


class Caller:
    """Calls of a coordinator as nodes make them."""

    def __init__(self, stub: Stub, key: tuple[str, str] = KEY) -> None:
        self.stub = stub
        self._names = {"network": key[0], "run": key[1]}

    async def join(self, member: Member) -> wire.JoinReply:
        reply: wire.JoinReply = await self._call("Join", wire.JoinRequest(member=member.message(), **self._names))
        return reply

    async def beat(self, member: Member, epoch: int = 0, round_: int = 0) -> wire.HeartbeatReply:
        request = wire.HeartbeatRequest(member=member.message(), epoch=epoch, round=round_, **self._names)
        reply: wire.HeartbeatReply = await self._call("Heartbeat", request)
        return reply

    async def leave(self, member: Member) -> None:
        await self._call("Leave", wire.LeaveRequest(member=member.message(), **self._names))

    def watch(self) -> Any:
        return self.stub.stream("Watch", wire.WatchRequest(**self._names), CALL_S)

    async def overview(self) -> wire.OverviewReply:
        reply: wire.OverviewReply = await self._call("Overview", wire.OverviewRequest())
        return reply

    async def _call(self, method: str, request: Any) -> Any:
        return await self.stub.call(method, request, CALL_S)


def names(view: wire.MeshView) -> dict[str, str]:
    """Return the members of a view with their states."""
    return {m.name: wire.MemberState.Name(m.state) for m in view.members}


@asynccontextmanager
async def calling(address: str, key: tuple[str, str] = KEY) -> AsyncIterator[Caller]:
    """Lend a caller with a connection of its own."""
    async with channel(parse_address(address)) as line:
        yield Caller(Stub(line, SERVICE), key)


@asynccontextmanager
async def coordinator(
    folder: Path, suggestions: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[Coordinator]:
    """Run a coordinator within this process."""
    config = CoordinatorConfig(**{"listen": "127.0.0.1:0", "data_dir": str(folder), **settings})
    made = Coordinator(config, suggestions or {})
    stop = asyncio.Event()
    running: asyncio.Task[None] | None = None
    try:
        await made.begin()
        running = asyncio.create_task(made.run(stop))
        yield made
    finally:
        stop.set()
        if running is not None:
            await running
        await made.end()


async def eventually(predicate: Any, what: str) -> Any:
    """Return the first true answer of `predicate`, awaited if need be; fail with `what` if none comes in time."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                answer = predicate()
                if answer := (await answer if asyncio.iscoroutine(answer) else answer):
                    return answer
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s: {what}") from None


class CoordinatorProcess:
    """A coordinator as a process on one port, over restarts."""

    def __init__(self, folder: Path, *flags: str, port: int = 0) -> None:
        self.data = folder / "coordinator"
        self.output = folder / "coordinator.out"
        self.flags = flags
        self.address = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> CoordinatorProcess:
        command = [sys.executable, "-m", "peermerge.coordinator.cli", "start", "--listen", self.address]
        command += ["--data-dir", str(self.data), *self.flags]
        if self.data.exists() and os.access(self.data, os.W_OK):
            (self.data / "address").unlink(missing_ok=True)
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        return self

    async def ready(self) -> CoordinatorProcess:
        """Wait until it listens."""
        place = self.data / "address"
        await eventually(lambda: place.exists() and place.read_text(), "the coordinator listens")
        self.address = place.read_text()
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, if it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    @property
    def said(self) -> str:
        return self.output.read_text()


@asynccontextmanager
async def process(folder: Path, *flags: str) -> AsyncIterator[CoordinatorProcess]:
    """Run a coordinator as a process; whatever still runs at the end is killed."""
    made = CoordinatorProcess(folder, *flags)
    try:
        yield await made.start().ready()
    finally:
        made.kill()
