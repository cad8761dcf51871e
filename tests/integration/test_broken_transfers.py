"""Real nodes' doors over gRPC, through a TCP relay that cuts the connection again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from peermerge.node.budget import Budget
from peermerge.node.config import RoundConfig
from peermerge.node.gather import Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replicas
from peermerge.node.service import PeerService
from peermerge.node.state import State
from peermerge.node.storage import DiskStorage
from peermerge.protocol.clock import RealClock
from peermerge.protocol.delta import Delta
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.limits import CHUNK_BYTES, MIN_EXPONENT
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.members import Member
from peermerge.protocol.messages import Header, Point, PullRequest

BREAKS = 20
BASE = bytes(32)
MANIFEST = manifest_of([("weight", (1 << 23,), "float32", False)])
FLOORS = np.full(1, MIN_EXPONENT, np.int8)


class Cutter:
    """A TCP relay in front of a port; each connection is cut once so many bytes have come back through it."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port = port
        self._cuts = cuts
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed = 0
        """Bytes that came back."""
        self.made = 0

    async def open(self) -> str:
        """Listen, and return the address to dial instead."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End all relaying."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._port)
        left = self._cuts.pop(0) if self._cuts else None
        for source, sink, limit in ((reader, there[1], None), (there[0], writer, left)):
            self._tasks.add(asyncio.create_task(self._relay(source, sink, limit, back=source is there[0])))

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int | None, *, back: bool
    ) -> None:
        try:
            with suppress(ConnectionError):
                while data := await source.read(1 << 16 if left is None else min(left, 1 << 16)):
                    sink.write(data)
                    await sink.drain()
                    self.passed += len(data) * back
                    left = None if left is None else left - len(data)
        finally:
            self.made += left == 0
            sink.transport.abort()


class Watched(PeerService):
    """Notes how far into a frame the pulls ask to go on."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.offsets: list[int] = []

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Note and stream."""
        self.offsets.append(PullRequest.decode(request).offset)
        async for message in super().pull(request):
            yield message


def identity(name: str) -> Identity:
    return Identity("net", "run", name, 1, BASE, MANIFEST)


def published(folder: Path) -> PublishedLog:
    """Return a log with one version of some MiB."""
    rng = np.random.default_rng(0)
    levels = rng.integers(1, 1 << 16, MANIFEST.length, dtype=np.int32)
    levels[rng.random(MANIFEST.length) < 0.5] *= -1
    log = PublishedLog(DiskStorage(folder), State(MANIFEST, FLOORS), "alice", BASE, 4, threads=2)
    log.append(
        Delta(np.full(1, -20, np.int8), np.arange(MANIFEST.length), levels),
        Header(
            network="net",
            run="run",
            view=0,
            sender="alice",
            incarnation=1,
            epoch=1,
            version=1,
            from_version=0,
            round=0,
            base=BASE,
            manifest=MANIFEST.digest,
            chain=BASE,
            state=0,
            frame_bytes=0,
            frame_sha256=BASE,
        ),
    )
    return log


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_transfer_that_is_cut_twenty_times_arrives_equal_and_is_sent_about_once(
    tmp_path: Path, seed: int
) -> None:
    draw, clock, peers = random.Random(seed), RealClock(), Peers()
    log = published(tmp_path / "alice")
    door = Watched(identity("alice"), log, Roster(Member("alice", "-"), []), Peers(), lambda _: Point(), Budget(clock))
    server, client = GrpcTransport("127.0.0.1:0"), GrpcTransport("127.0.0.1:0")
    await server.serve(door)
    cutter = Cutter(int(server.address.rpartition(":")[2]), [draw.randrange(2 * CHUNK_BYTES) for _ in range(BREAKS)])
    address = await cutter.open()
    storage = DiskStorage(tmp_path / "bob")
    replicas = Replicas(MANIFEST, FLOORS, BASE, tmp_path / "bob" / "replicas", threads=2)
    gather = Gather(
        identity("bob"), client, clock, peers, RoundConfig(), replicas.point, replicas.apply, storage.scratch
    )
    while not await gather.pull("alice", address, -1):
        assert peers["alice"].last_error.startswith("TRANSPORT"), peers["alice"].last_error
        assert replicas.get("alice") is None

    held, frame = replicas.get("alice"), log.header
    assert held is not None
    assert frame is not None
    assert held.point == log.point
    assert np.array_equal(held.state.levels, log.state.levels)
    assert held.state.digest == log.state.digest
    assert cutter.made == BREAKS
    assert door.offsets == sorted(door.offsets)
    assert door.offsets[-1] > 0
    assert frame.frame_bytes > 8 * CHUNK_BYTES
    # A message that is cut is sent again, and so is what gRPC had in its window behind it.
    assert cutter.passed < frame.frame_bytes + BREAKS * 1.1 * CHUNK_BYTES
    assert peers["alice"].bytes_in < frame.frame_bytes + 4096 * (BREAKS + 1)
    assert {path.name for path in (tmp_path / "bob").iterdir()} == {"lock", "replicas"}

    await gather.close()
    await client.close()
    await server.close()
    await cutter.close()
    storage.close()
    clock.close()
