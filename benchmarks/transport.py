"""What moving bytes costs: 256 MiB of random ones between two processes over the loopback interface.

Prints the CPU seconds of both ends, per GB, and as a ratio to those of a raw TCP socket (with TLS: of Python's own ssl)
that moves the same bytes in the same run: at most 3.3 and 1.6. Repeats take turns, and the cheapest of each counts.
`whole path` is what a node does on top: a published file is read, its frame travels in a Pull stream, and the receiver
spools it with a running SHA-256. Memory is what the resident set of a side grew at its peak, the first transfer
included: at most 32 MB.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from _common import ERR, arguments, show, write

from peermerge.protocol.allocator import share_one_arena
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.tls import Tls

MIB = 1 << 20
GB = 1e9
MODES = {"tcp": "raw TCP", "grpc": "gRPC", "ssl": "Python's ssl", "grpc_tls": "gRPC, mutual TLS", "path": "whole path"}
OVER = {"grpc": "tcp", "path": "tcp", "grpc_tls": "ssl"}
"""What each is compared with."""
LIMITS = {"plain_cpu_over_tcp": 3.3, "tls_cpu_over_tls": 1.6, "rss_growth_mb": 32.0}
PATIENT = {"timeout_s": 300.0, "stall_s": 60.0}

Sending = Callable[[], None]
Receiving = Callable[[str], int]


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
    from peermerge.node.membership import StaticMembership
    from peermerge.node.peers import Peers
    from peermerge.node.service import PeerService
    from peermerge.node.storage import DiskStorage
    from peermerge.protocol.blob import MemoryBlob
    from peermerge.protocol.clock import RealClock
    from peermerge.protocol.messages import Envelope, Header, Member, Point

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
    membership = StaticMembership(Member("sender", "127.0.0.1:1"), [])
    return PeerService(me, shelf, membership, Peers(), lambda _: Point(), Budget(RealClock()))


def pulled(job: Job, transport: GrpcTransport) -> Callable[[str], Any]:
    """Return what pulls a frame as a node does, but for applying it."""
    from peermerge.node.config import RoundConfig
    from peermerge.node.gather import Gather
    from peermerge.node.peers import Peers
    from peermerge.node.storage import DiskStorage
    from peermerge.protocol.clock import RealClock
    from peermerge.protocol.messages import Point

    storage, sizes = DiskStorage(job.folder / "receiver"), [0]
    apply: Any = lambda peer, header, frame: sizes.append(len(frame))  # noqa: E731
    me = identity("receiver", job)
    peers = Peers()
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


class Pair:
    """A sender and a receiver, a process each."""

    def __init__(self, job: Job) -> None:
        spawn = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for end in ENDS[job.mode]:
            here, there = spawn.Pipe()
            process = spawn.Process(target=end, args=(job, there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self._address: str = self._pipes[0].recv()

    def turn(self) -> tuple[float, float]:
        """Move the bytes once; return the CPU seconds of both ends and the wall time."""
        sender, receiver = self._pipes
        started = time.perf_counter()
        for pipe in (sender, receiver):
            pipe.send(self._address)
        receiver.recv()
        wall = time.perf_counter() - started
        sender.recv()
        for pipe in (sender, receiver):
            pipe.send("done")
        return sum(pipe.recv() for pipe in (sender, receiver)), wall

    def end(self) -> list[float]:
        """End both; return by how many MB each grew."""
        grown = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            grown.append(float(pipe.recv()))
            process.join()
        return grown


def make_certificate(folder: Path) -> None:
    """Let openssl write a certificate for this machine's loopback address and its key."""
    if shutil.which("openssl") is None:
        raise SystemExit("the command openssl is needed here, for a certificate: install it")
    subject = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "chain.pem")]
    subprocess.run(["openssl", "req", "-x509", *kind, *subject, *files], check=True, capture_output=True)


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--mib", type=int, default=256, help="what is moved")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    repeats = 3 if given.quick else given.repeats
    folder = Path(mkdtemp(prefix="peermerge-transport-"))
    try:
        make_certificate(folder)
        pairs = {mode: Pair(Job(mode, given.mib, folder)) for mode in MODES}
        spent: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
        for repeat in range(repeats):
            ERR.print(f"repeat {repeat + 1} of {repeats}, load {os.getloadavg()[0]:.2f}")
            for mode, pair in pairs.items():
                spent[mode].append(pair.turn())
        grown = {mode: max(pair.end()) for mode, pair in pairs.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    moved = given.mib * MIB / GB
    cpu = {mode: min(c for c, _ in turns) / moved for mode, turns in spent.items()}
    wall = {mode: moved * 1e3 / min(w for _, w in turns) for mode, turns in spent.items()}
    over = {mode: cpu[mode] / cpu[base] for mode, base in OVER.items()}
    rows = [[MODES[m], cpu[m], over.get(m, ""), MODES.get(OVER.get(m, ""), ""), wall[m], grown[m]] for m in MODES]
    columns = ["", "CPU s per GB, both ends", "ratio", "to", "MB a second", "memory grew, MB a side"]
    show(f"{given.mib} MiB over the loopback interface", columns, rows)
    figures: dict[str, float | int | str] = {
        "mib": given.mib,
        "plain_cpu_over_tcp": over["grpc"],
        "tls_cpu_over_tls": over["grpc_tls"],
        "path_cpu_over_tcp": over["path"],
        "rss_growth_mb": max(grown[mode] for mode in OVER),
        **{f"{mode}_cpu_s_per_gb": value for mode, value in cpu.items()},
        **{f"{mode}_mb_per_s": value for mode, value in wall.items()},
        **{f"{mode}_rss_growth_mb": value for mode, value in grown.items()},
    }
    show("limits", ["figure", "value", "at most"], [[name, figures[name], limit] for name, limit in LIMITS.items()])
    write(given.json, figures)


if __name__ == "__main__":
    main()
