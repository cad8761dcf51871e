"""The nodes of a soak, who of them runs, what was done to them, and what they said in all their lives."""

from __future__ import annotations

import heapq
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..faults.checker import Fault, write_faults
from ..faults.processes import two_seeds
from ..integration.daemons import NodeProcess, free_ports

Action = Callable[[], None]


@dataclass
class Timetable:
    """What is to be done when, on the monotonic clock."""

    _due: list[tuple[float, int, Action]] = field(default_factory=list)
    _count: int = 0

    def later(self, seconds: float, action: Action) -> None:
        """Do something so many seconds from now."""
        self._count += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._count, action))

    def step(self) -> None:
        """Do what is due."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a node ended that was asked to."""

    name: str
    code: int
    seconds: float


class World:
    """Nodes on the loopback interface: the first half are never restarted, so that their whole life is seen."""

    def __init__(self, folder: Path, count: int, spares: int, settings: dict[str, Any]) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(count + spares)]
        shards = {"task.count": count + spares, "membership.expect": count}
        everybody = [
            NodeProcess(folder, f"n{i}", address, settings | shards | {"task.index": i})
            for i, address in enumerate(addresses)
        ]
        self.nodes, self.spares = everybody[:count], everybody[count:]
        two_seeds(everybody)
        self.folder = folder
        self.timetable = Timetable()
        self.running: list[NodeProcess] = []
        self.faults: list[Fault] = []
        self.exits: list[Exit] = []
        self.lost: list[str] = []
        self.lives: dict[str, int] = defaultdict(int)
        self._said: dict[str, str] = defaultdict(str)

    @property
    def veterans(self) -> list[NodeProcess]:
        """Those who are never restarted."""
        return self.nodes[: len(self.nodes) // 2]

    def start(self, node: NodeProcess) -> None:
        """Start a node, for the first time or again."""
        founds = node in self.nodes and not self.lives[node.name]
        node.start(**{} if founds else {"membership__expect": 2})  # who comes later goes on with whoever is there
        self.lives[node.name] += 1
        self.running.append(node)

    def kill(self, node: NodeProcess) -> None:
        """End a node as a power cut would."""
        self.running.remove(node)
        node.kill()
        self._keep(node)

    def stop(self, node: NodeProcess) -> None:
        """Ask a node to end, and note how long it takes."""
        self.running.remove(node)
        started = time.monotonic()
        code = node.stop()
        self.exits.append(Exit(node.name, code, time.monotonic() - started))
        self._keep(node)

    def stop_all(self) -> None:
        """Ask everybody at once."""
        started, ending = time.monotonic(), list(self.running)
        for node in ending:
            node.signal(signal.SIGTERM)
        for node in ending:
            self.exits.append(Exit(node.name, node.wait(), time.monotonic() - started))
            self._keep(node)
        self.running.clear()

    def did(self, kind: str, node: NodeProcess, began: float) -> None:
        """Note a fault that is over."""
        self.faults.append(Fault(kind, began, time.time(), (node.name,)))

    def said(self, node: NodeProcess) -> str:
        """Return what a node has printed in all its lives."""
        return self._said[node.name] + (node.said if node in self.running else "")

    def look_after(self) -> None:
        """Note who ended by itself."""
        for node in [node for node in self.running if not node.running]:
            self.running.remove(node)
            self.lost.append(node.name)
            self._keep(node)

    def leave_word(self) -> None:
        """Leave all that was said and done beside the data directories, for the checker."""
        for name, said in self._said.items():
            (self.folder / f"{name}.out").write_text(said)
        write_faults(self.folder, self.faults)

    def close(self) -> None:
        """Kill what still runs."""
        for node in list(self.running):
            self.kill(node)

    def _keep(self, node: NodeProcess) -> None:
        """Keep a life's output: the next one writes over it."""
        self._said[node.name] += node.said
