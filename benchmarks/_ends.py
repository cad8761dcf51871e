"""The two ends of each way to move bytes that `transport.py` compares: raw sockets, gRPC, and all that a node does."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peermerge.protocol.allocator import share_one_arena
from peermerge.protocol.blob import Blob, MemoryBlob
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.tls import Tls

MIB = 1 << 20
PATIENT = {"timeout_s": 300.0, "stall_s": 60.0}


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes are told: how many MiB to move, and where certificates and files lie."""

    mode: str
    mib: int
    folder: Path


# ---- Raw sockets. ----


def blocks(mib: int) -> Iterator[bytes]:
    """Yield so many MiB of random bytes: sixteen blocks in turn."""
    return islice(cycle([os.urandom(MIB) for _ in range(16)]), mib)


def context(job: Job, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return the TLS context of a raw socket: mutual, as gRPC's."""
    made = ssl.create_default_context(purpose, cafile=str(job.folder / "chain.pem"))
    made.load_cert_chain(job.folder / "chain.pem", job.folder / "key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def send_raw(job: Job, pipe: Connection) -> None:
    """Serve a raw socket."""
    stock = list(blocks(16))
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(f"127.0.0.1:{server.getsockname()[1]}")
        with measured(pipe) as turns:
            for _ in turns:
                stream = server.accept()[0]
                if job.mode == "ssl":
                    stream = context(job, ssl.Purpose.CLIENT_AUTH).wrap_socket(stream, server_side=True)
                with stream:
                    for block in islice(cycle(stock), job.mib):
                        stream.sendall(block)


def receive_raw(job: Job, pipe: Connection) -> None:
    """Read a raw socket to its end."""
    buffer = bytearray(MIB)
    with measured(pipe) as turns:
        for address in turns:
            host, _, port = address.rpartition(":")
            stream = socket.create_connection((host, int(port)))
            if job.mode == "ssl":
                stream = context(job, ssl.Purpose.SERVER_AUTH).wrap_socket(stream, server_hostname=host)
            with stream:
                check(sum(iter(partial(stream.recv_into, buffer), 0)), job)


# ---- gRPC. ----


class Blocks:
    """A handler that streams ready blocks."""

    def __init__(self, mib: int) -> None:
        self._stock = list(blocks(16))
        self._mib = mib

    async def hello(self, request: bytes) -> bytes:
        """Not asked."""
        return request

    async def gossip(self, request: bytes) -> bytes:
        """Not asked."""
        return request

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Stream."""
        for block in islice(cycle(self._stock), self._mib):
            yield block


def tls(job: Job) -> Tls | None:
    """Return the certificate of both ends, if the mode asks for one."""
    if job.mode != "grpc_tls":
        return None
    chain, key = ((job.folder / name).read_bytes() for name in ("chain.pem", "key.pem"))
    return Tls(chain, key, chain)


def send_grpc(job: Job, pipe: Connection) -> None:
    """Serve blocks, or a published file."""
    asyncio.run(_send_grpc(job, pipe))


async def _send_grpc(job: Job, pipe: Connection) -> None:
    transport = GrpcTransport("127.0.0.1:0", tls=tls(job))
    await transport.serve(published(job) if job.mode == "path" else Blocks(job.mib))
    pipe.send(transport.address)
    await asyncio.to_thread(idle, pipe)
    await transport.close()


def idle(pipe: Connection) -> None:
    """Let the event loop do the work of every turn."""
    with measured(pipe) as turns:
        for _ in turns:
            pass


def receive_grpc(job: Job, pipe: Connection) -> None:
    """Pull."""
    with measured(pipe) as turns, asyncio.Runner() as runner:
        transport = GrpcTransport("127.0.0.1:0", tls=tls(job))
        take = pulled(job, transport) if job.mode == "path" else partial(drained, transport)
        for address in turns:
            check(runner.run(take(address)), job)
        runner.run(transport.close())


async def drained(transport: GrpcTransport, address: str) -> int:
    """Read a stream to its end; return the bytes."""
    return sum([len(message) async for message in transport.pull(address, b"", **PATIENT)])


# ---- The whole path: the service, the stream and the spool of a node around a file of random bytes. ----


def identity(name: str, job: Job) -> Any:
    """Return who a node is whose model is large enough for such a frame."""
    from peermerge.node.gather import Identity
    from peermerge.protocol.manifest import manifest_of

    manifest = manifest_of([("weight", (job.mib, MIB // 4), "float32", False)])
    return Identity("net", "run", name, 1, bytes(32), manifest)


def published(job: Job) -> Any:
    """Return the service of a node whose log holds one file of random bytes."""
    import hashlib

    from peermerge.node.budget import Budget
    from peermerge.node.log_entry import Entry
    from peermerge.node.membership import Roster
    from peermerge.node.peers import Peers
    from peermerge.node.service import PeerService
    from peermerge.node.storage import DiskStorage
    from peermerge.protocol.clock import RealClock
    from peermerge.protocol.members import Member
    from peermerge.protocol.messages import Envelope, Header, Point

    me, storage, digest = identity("sender", job), DiskStorage(job.folder / "sender"), hashlib.sha256()
    with storage.create("frame") as draft:
        for block in blocks(job.mib):
            digest.update(block)
            draft.file.write(block)
        header = Header(
            network="net",
            run="run",
            view=0,
            sender="sender",
            incarnation=1,
            epoch=1,
            version=1,
            from_version=0,
            round=0,
            base=me.base,
            manifest=me.manifest.digest,
            chain=bytes(32),
            state=0,
            frame_bytes=job.mib * MIB,
            frame_sha256=digest.digest(),
        )
        draft.file.write(Entry(header, Envelope(header.encode()).encode(), MemoryBlob(b"")).trailer())
        draft.commit()

    class Shelf:
        """As much of a log as the service asks for."""

        epoch, version = 1, 1

        def contradicts(self, held: Point) -> bool:
            return False

        def plan(self, have: Point, *, snapshot: bool) -> list[str]:
            return ["frame"]

        def read(self, name: str) -> Entry:
            file = storage.open(name)
            if file is None:
                raise SystemExit(f"{name} is gone")
            return Entry.open(file)

    shelf: Any = Shelf()
    membership = Roster(Member("sender", "127.0.0.1:1"), [])
    return PeerService(me, shelf, membership, Peers(), lambda _: Point(), Budget(RealClock()))


def pulled(job: Job, transport: GrpcTransport) -> Callable[[str], Any]:
    """Return what pulls a frame as a node does, but for applying it."""
    from peermerge.node.config import RoundConfig
    from peermerge.node.gather import Gather
    from peermerge.node.peers import Peers
    from peermerge.node.storage import DiskStorage
    from peermerge.protocol.clock import RealClock
    from peermerge.protocol.messages import Point

    me, storage, peers, sizes = identity("receiver", job), DiskStorage(job.folder / "receiver"), Peers(), [0]

    def apply(peer: str, header: object, frame: Blob) -> Any:
        sizes.append(len(frame))

    gather = Gather(me, transport, RealClock(), peers, RoundConfig(), lambda _: Point(), apply, storage.scratch)

    async def take(address: str) -> int:
        if not await gather.pull("sender", address, -1):
            raise SystemExit(peers["sender"].last_error)
        return sizes[-1]

    return take


# ---- Measuring. ----


def check(got: int, job: Job) -> None:
    """Raise unless all bytes came."""
    if got != job.mib * MIB:
        raise SystemExit(f"{job.mode}: {got} bytes of {job.mib * MIB}")


@contextmanager
def measured(pipe: Connection) -> Iterator[Generator[str]]:
    """Lend the turns that the parent calls; tell it the CPU seconds of each, and at the end what memory grew, in MB.

    A turn ends when the parent says so: what other threads of this process do for it belongs to it.
    """
    share_one_arena()  # as daemons do
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = memory("VmRSS")

    def turns() -> Generator[str]:
        while (address := pipe.recv()) is not None:
            started = time.process_time()
            yield address
            pipe.send("moved")
            pipe.recv()
            pipe.send(time.process_time() - started)
        pipe.send(memory("VmHWM") - before)

    with closing(turns()) as lent:
        yield lent


def memory(name: str) -> float:
    """Return a figure of this process's memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024 / 1e6


ENDS = {
    "tcp": (send_raw, receive_raw),
    "ssl": (send_raw, receive_raw),
    "grpc": (send_grpc, receive_grpc),
    "grpc_tls": (send_grpc, receive_grpc),
    "path": (send_grpc, receive_grpc),
}
