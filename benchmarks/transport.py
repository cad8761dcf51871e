"""What moving bytes costs: 256 MiB of random ones between two processes over the loopback interface.

Prints the CPU seconds of both ends, per GB, and as a ratio to those of a raw TCP socket (with TLS: of Python's own ssl)
that moves the same bytes in the same run: at most 3.3 and 1.6. Each end has a core of its own, as if it were another
machine's; repeats take turns, and the cheapest of each counts.
`whole path` is what a node does on top: a published file is read, its frame travels in a Pull stream, and the receiver
spools it with a running SHA-256. Memory is what the resident set of a side grew at its peak, the first transfer
included: at most 32 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp

from _common import ERR, arguments, show, write
from _ends import ENDS, MIB, Job

GB = 1e9
MODES = {"tcp": "raw TCP", "grpc": "gRPC", "ssl": "Python's ssl", "grpc_tls": "gRPC, mutual TLS", "path": "whole path"}
OVER = {"grpc": "tcp", "path": "tcp", "grpc_tls": "ssl"}
"""What each is compared with."""
LIMITS = {"plain_cpu_over_tcp": 3.3, "tls_cpu_over_tls": 1.6, "rss_growth_mb": 32.0}


def alone(end: Callable[[Job, Connection], None], job: Job, pipe: Connection, side: int) -> None:
    """Run one end on a core of its own: where both share one, what TCP costs falls by a third."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[side % len(cores)]})
    end(job, pipe)


class Pair:
    """A sender and a receiver, a process each."""

    def __init__(self, job: Job) -> None:
        spawn = get_context("spawn")
        pipes = [spawn.Pipe() for _ in ENDS[job.mode]]
        self._pipes = [here for here, _ in pipes]
        self._processes = [
            spawn.Process(target=alone, args=(end, job, there, side), daemon=True)
            for side, (end, (_, there)) in enumerate(zip(ENDS[job.mode], pipes, strict=True))
        ]
        for process, (_, there) in zip(self._processes, pipes, strict=True):
            process.start()
            there.close()
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
