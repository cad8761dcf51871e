"""Real nodes on this machine: their folders, their addresses, their processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import MembershipConfig, NodeConfig, SimulationConfig
from . import toml
from .nodes import node_config, node_name

TAIL_LINES = 15
GRACE_S = 10.0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(config: SimulationConfig, out: Path) -> list[NodeConfig]:
    """Write every node's folder and node.toml, and return the configurations.

    Folders of an earlier simulation in `out` are removed.
    """
    count, root = config.simulation.nodes, out.resolve() / "nodes"
    for old in root.glob("n[0-9][0-9][0-9][0-9]*/node.toml"):
        shutil.rmtree(old.parent)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    nodes = []
    for i, address in enumerate(addresses):
        node = node_config(
            config,
            i,
            listen=address,
            data_dir=str(root / node_name(i)),
            threads=max(1, cores() // count),
            device=config.simulation.device,
        )
        others = tuple(a for a in addresses if a != address)
        # Everybody loads torch at the same time: about four seconds of a core each.
        membership = MembershipConfig(
            peers=others,
            expect=count,
            wait_s=60.0 + 10.0 * count / cores(),
            gossip=config.simulation.gossip,
        )
        node = node.model_copy(update={"membership": membership})
        folder = Path(node.node.data_dir)
        folder.mkdir(parents=True)
        (folder / "node.toml").write_text(toml.dumps(node.model_dump(mode="json")))
        nodes.append(node)
    return nodes


def free_ports(count: int) -> list[int]:
    """Return so many different free ports of the loopback interface."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(slots=True)
class Child:
    """One node's process, and how far its events have been read."""

    config: NodeConfig
    process: asyncio.subprocess.Process
    events: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.node.name

    @property
    def folder(self) -> Path:
        """Its data directory."""
        return Path(self.config.node.data_dir)

    @property
    def serves(self) -> bool:
        """Whether it has opened its door."""
        return (self.folder / "address").exists()

    def new_events(self) -> list[dict[str, Any]]:
        """Return the events written since the last call: whole lines only."""
        try:
            with open(self.folder / "events.jsonl", "rb") as file:
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + bool(whole)
        fresh: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        self.events += fresh
        return fresh

    def result(self) -> dict[str, Any]:
        """Return what it says it did; empty if it ended before it could say."""
        try:
            result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return result

    def tail(self) -> str:
        """Return how it ended: the exit status and the last lines of its log."""
        status, log = self.process.returncode, self.folder / "node.log"
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        how = f"ended by signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        heading = f"{how}; the last lines of {log}:" if lines else f"{how}; {log} is empty"
        return "\n".join([heading, *(f"    {line}" for line in lines)])


async def spawn(config: NodeConfig) -> Child:
    """Start a node's process in a session of its own, so that Ctrl-C reaches it through us alone."""
    folder = Path(config.node.data_dir)
    threads = str(config.node.threads)
    with open(folder / "node.log", "wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "peermerge.node.simulation.child", str(os.getpid())),
            *("node", "start", "--config", str(folder / "node.toml")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    return Child(config, process)


async def stop(children: list[Child]) -> None:
    """End whoever still runs: first politely, after a while for good."""
    running = [child.process for child in children if child.process.returncode is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    waits = [asyncio.create_task(process.wait()) for process in running]
    if waits:
        await asyncio.wait(waits, timeout=GRACE_S)
    for process in running:
        if process.returncode is None:
            process.kill()
    await asyncio.gather(*waits)
