"""What an idle daemon costs: memory beyond `import torch`, and bytes on the wire.

Starts 8 daemons in a ring with a task that imports only torch, lets them merge once, pauses them over the Control
service, and measures: the resident memory of each less that of a Python that has imported torch (limit 60 MB), and
the bytes that each sends in a second, by its own count and by the loopback interface's, which sees gRPC's, TCP's and
IP's overhead too (limit 500). Anybody's traffic on that interface counts, so on a busy machine give it one of its own:

    unshare -rn sh -c 'ip link set lo up; python benchmarks/idle.py'
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from tempfile import mkdtemp
from typing import Any

import psutil
from _common import arguments, show, write

from peermerge.node.config import SimulationConfig, load
from peermerge.node.simulation.daemons import Child, prepare, spawn, stop
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.addresses import parse_address
from peermerge.protocol.remote import dial

MB = 1e6
MEMORY_MB = 60
BYTES_S = 500
POLL_S = 0.2
TORCH = "import torch, sys; print(flush=True); sys.stdin.read()"


def torch_alone() -> float:
    """Return the resident megabytes of a Python that has imported torch."""
    with subprocess.Popen([sys.executable, "-c", TORCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or not process.stdout.readline():
            raise SystemExit("import torch failed")
        resident = psutil.Process(process.pid).memory_info().rss / MB
        process.terminate()
    return resident


def loopback() -> int:
    """Return the bytes that the loopback interface has sent; 0 where there is no /proc."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))


async def ask(child: Child, service: str, method: str, request: Any) -> Any:
    """Call a daemon's Status or Control."""
    address = parse_address((child.folder / "address").read_text())
    async with dial(address, service) as stub:
        return await stub.call(method, request, 10.0)


async def statuses(children: list[Child]) -> list[wire.StatusReply]:
    """Return the status of all."""
    return list(await asyncio.gather(*(ask(child, "Status", "Get", wire.StatusRequest()) for child in children)))


def has_merged(child: Child) -> bool:
    """Whether a daemon has ended its first round."""
    if child.process.returncode is not None:
        raise SystemExit(f"{child.name} {child.tail()}")
    child.new_events()
    return any(event["event"] == "round" for event in child.events)


async def pause_all(children: list[Child]) -> None:
    """Wait until all have merged once, pause them, and wait until they stand still."""
    while not all(has_merged(child) for child in children):
        await asyncio.sleep(POLL_S)
    await asyncio.gather(*(ask(child, "Control", "Pause", wire.ControlRequest()) for child in children))
    while any(status.phase != "paused" for status in await statuses(children)):
        await asyncio.sleep(POLL_S)


async def measure(config: SimulationConfig, folder: Path, seconds: float) -> dict[str, float]:
    """Return the figures of a mesh of paused daemons."""
    children: list[Child] = []
    try:
        for node in prepare(config, folder):
            children.append(await spawn(node))
        await pause_all(children)
        before = await statuses(children)
        began, wire_before = time.monotonic(), loopback()
        await asyncio.sleep(seconds)
        wire_bytes, spent = loopback() - wire_before, time.monotonic() - began
        after = await statuses(children)
        resident = [psutil.Process(child.process.pid).memory_info().rss / MB for child in children]
    finally:
        await stop(children)
    sent = [b.bytes_out - a.bytes_out for a, b in zip(before, after, strict=True)]
    return {
        "daemon_mb": fmean(resident),
        "daemon_mb_max": max(resident),
        "application_bytes_s": fmean(sent) / spent,
        "loopback_bytes_s": wire_bytes / spent / len(children),
    }


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the wire is watched")
    given = parser.parse_args()
    nodes, seconds = (2, 2.0) if given.quick else (given.nodes, given.seconds)
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    over: dict[str, Any] = {
        "task.name": "_torch_task:nothing",
        "topology.name": "ring",
        "schedule.rounds": 0,
        "schedule.local_steps": 0,
        "simulation.nodes": nodes,
    }
    folder = Path(mkdtemp(prefix="peermerge-idle-"))
    try:
        found = asyncio.run(measure(load(SimulationConfig, None, over), folder, seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    torch_mb = torch_alone()
    figures: dict[str, float] = {"torch_mb": torch_mb, **found}
    figures |= {key.replace("daemon", "beyond_torch"): found[key] - torch_mb for key in ("daemon_mb", "daemon_mb_max")}
    limits = {"beyond_torch_mb_max": MEMORY_MB, "loopback_bytes_s": BYTES_S}
    rows = [[name, value, limits.get(name, "")] for name, value in figures.items()]
    show(f"{nodes} paused daemons", ["figure", "value", "limit"], rows)
    write(given.json, dict(figures))


if __name__ == "__main__":
    main()
