"""A model of a billion parameters: a synthetic delta of 1 % is published, travels and is applied, in bounded memory.

A publisher and a follower, a process each, are a node's own log, service, gRPC transport, spool and replicas; both hold
the published state as a memory-mapped file of int32. Prints how long each step takes in every round (in the first one
the replica's file is made) and the peak of each process's anonymous memory, everything included: at most 1.5 GB.
Needs 8 GB of disk for the states; `--quick` plays a model of 64 million parameters.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Thread

import numpy as np
from _common import ERR, arguments, show, write

from peermerge.node.budget import Budget
from peermerge.node.config import RoundConfig
from peermerge.node.gather import Gather, Identity
from peermerge.node.log import PublishedLog
from peermerge.node.membership import Roster
from peermerge.node.peers import Peers
from peermerge.node.replicas import Replica, Replicas
from peermerge.node.service import PeerService
from peermerge.node.state import State
from peermerge.node.storage import DiskStorage
from peermerge.protocol.allocator import share_one_arena
from peermerge.protocol.blob import Blob
from peermerge.protocol.clock import RealClock
from peermerge.protocol.delta import Delta
from peermerge.protocol.grpc_transport import GrpcTransport
from peermerge.protocol.limits import MIN_EXPONENT
from peermerge.protocol.manifest import Manifest, manifest_of
from peermerge.protocol.members import Member
from peermerge.protocol.messages import Header, Point

TENSOR = 1 << 22
LIMIT_GB = 1.5
SAMPLE_S = 0.005
BASE = bytes(32)


@dataclass(frozen=True, slots=True)
class Job:
    """What both processes are told."""

    tensors: int
    density: float
    threads: int
    folder: Path

    @property
    def manifest(self) -> Manifest:
        """The model: square matrices."""
        return manifest_of(
            [(f"layer{i}.weight", (2048, TENSOR // 2048), "float32", False) for i in range(self.tensors)]
        )

    def identity(self, name: str) -> Identity:
        """Who one of them is."""
        return Identity("net", "run", name, 1, BASE, self.manifest)


def synthetic(manifest: Manifest, density: float, rng: np.random.Generator) -> Delta:
    """Return a delta of independent entries with small levels; each place is taken with the same probability."""
    count = int(density * manifest.length)
    index = rng.geometric(density, count)
    np.cumsum(index, out=index)
    index = index[index < manifest.length]
    levels = rng.integers(1, 4, len(index), dtype=np.int32) * rng.choice(np.array([-1, 1], np.int32), len(index))
    return Delta(np.full(len(manifest.tensors), -20, np.int8), index, levels)


def header(job: Job, round_: int) -> Header:
    """Return a round's header but for what the log fills in."""
    return Header(
        network="net",
        run="run",
        view=0,
        sender="publisher",
        incarnation=1,
        epoch=1,
        version=1,
        from_version=0,
        round=round_,
        base=BASE,
        manifest=job.manifest.digest,
        chain=BASE,
        state=0,
        frame_bytes=0,
        frame_sha256=BASE,
    )


@contextmanager
def peak_anonymous() -> Iterator[Callable[[], float]]:
    """Watch this process's anonymous memory; lend what tells its peak so far, in GB."""
    peak, ended = [0], Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak[0] * 1024 / 1e9
    finally:
        ended.set()
        thread.join()


def publish(job: Job, pipe: Connection) -> None:
    """Publish a delta a round and serve it."""
    share_one_arena()
    asyncio.run(_publish(job, pipe))


async def _publish(job: Job, pipe: Connection) -> None:
    manifest, rng = job.manifest, np.random.default_rng(0)
    state = State(manifest, np.full(job.tensors, MIN_EXPONENT, np.int8))
    state.levels = np.memmap(job.folder / "state.levels", np.int32, "w+", shape=(manifest.length,))
    storage, clock = DiskStorage(job.folder / "publisher"), RealClock()
    log = PublishedLog(storage, state, "publisher", BASE, 64, threads=job.threads)
    members = Roster(Member("publisher", "127.0.0.1:1"), [])
    transport = GrpcTransport("127.0.0.1:0")
    identity = job.identity("publisher")
    await transport.serve(PeerService(identity, log, members, Peers(), lambda _: Point(), Budget(clock)))
    pipe.send(transport.address)
    with peak_anonymous() as peak:
        while (round_ := await asyncio.to_thread(pipe.recv)) is not None:
            delta, template = synthetic(manifest, job.density, rng), header(job, round_)
            started = time.perf_counter()
            entry = await clock.work(partial(log.append, delta, template))
            seconds = time.perf_counter() - started
            pipe.send({"entries": len(delta), "frame_mb": len(entry.frame) / 1e6, "encode_s": seconds})
        pipe.send((peak(), log.point))
    await transport.close()
    clock.close()


def follow(job: Job, pipe: Connection) -> None:
    """Pull every round's delta and apply it to a replica."""
    share_one_arena()
    asyncio.run(_follow(job, pipe))


async def _follow(job: Job, pipe: Connection) -> None:
    floors = np.full(job.tensors, MIN_EXPONENT, np.int8)
    replicas = Replicas(job.manifest, floors, BASE, job.folder / "replicas", threads=job.threads)
    storage, clock, peers = DiskStorage(job.folder / "follower"), RealClock(), Peers()
    transport, applying = GrpcTransport("127.0.0.1:0"), [0.0]

    def apply(peer: str, header: Header, frame: Blob) -> Replica:
        started = time.perf_counter()
        replica = replicas.apply(peer, header, frame)
        applying[0] = time.perf_counter() - started
        return replica

    identity, held = job.identity("follower"), replicas.point
    gather = Gather(identity, transport, clock, peers, RoundConfig(), held, apply, storage.scratch)
    with peak_anonymous() as peak:
        while (address := await asyncio.to_thread(pipe.recv)) is not None:
            started = time.perf_counter()
            if not await gather.pull("publisher", address, -1):
                raise SystemExit(peers["publisher"].last_error)
            seconds = time.perf_counter() - started
            pipe.send({"travel_s": seconds - applying[0], "apply_s": applying[0]})
        pipe.send((peak(), replicas.point("publisher")))
    await gather.close()
    await transport.close()
    clock.close()


def play(job: Job, rounds: int) -> dict[str, float]:
    """Run both; return each round's figures and the peaks."""
    spawn = get_context("spawn")
    (publisher, one), (follower, other) = spawn.Pipe(), spawn.Pipe()
    processes = [
        spawn.Process(target=end, args=(job, pipe), daemon=True) for end, pipe in ((publish, one), (follow, other))
    ]
    for process in processes:
        process.start()
    one.close()
    other.close()
    figures: dict[str, float] = {}
    address = publisher.recv()
    for round_ in range(rounds):
        for pipe, message in ((publisher, round_), (follower, address)):
            pipe.send(message)
            figures |= {f"{name}_{round_ + 1}": value for name, value in pipe.recv().items()}
        ERR.print(f"round {round_ + 1} of {rounds}, load {os.getloadavg()[0]:.2f}")
    for pipe in (follower, publisher):
        pipe.send(None)
    (follower_gb, held), (publisher_gb, head) = follower.recv(), publisher.recv()
    for process in processes:
        process.join()
    if held != head:
        raise SystemExit("the replica is not what was published")
    return figures | {"publisher_anon_gb": publisher_gb, "follower_anon_gb": follower_gb}


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the states lie, if not in the system's temporary folder")
    given = parser.parse_args()
    tensors = -(-int(64e6 if given.quick else given.parameters) // TENSOR)
    threads = len(os.sched_getaffinity(0))
    folder = Path(mkdtemp(prefix="peermerge-billion-", dir=given.folder))
    try:
        figures = play(Job(tensors, given.density, threads, folder), given.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    names = ["entries", "frame_mb", "encode_s", "travel_s", "apply_s"]
    rounds = [[r, *(figures[f"{name}_{r}"] for name in names)] for r in range(1, given.rounds + 1)]
    title = f"{tensors * TENSOR / 1e9:.3f} billion parameters, {threads} threads"
    show(title, ["round", "entries", "frame, MB", "publish, s", "travel, s", "apply, s"], rounds)
    peaks = [[name, figures[f"{name}_anon_gb"], LIMIT_GB] for name in ("publisher", "follower")]
    show("anonymous memory", ["beyond the mapped states", "peak, GB", "at most"], peaks)
    write(given.json, {"parameters": tensors * TENSOR, "threads": threads, **figures})


if __name__ == "__main__":
    main()
