"""Real node processes to hurt: their events as they come, what is done to them, and what must never come of it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

from ..integration.daemons import NodeProcess, end, eventually
from ..integration.mesh import dotted
from .checker import PAUSE, Fault, check, read, table, write_faults
from .lab import Lab

PORT = 7000
KEPT = ("start", "stop", "published", "merge", "round", "view", "suspect")
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 100_000

Line = dict[str, Any]


class Diary:
    """Reads a node's events as they come, past the rotation of their file; remembers those of some kinds."""

    def __init__(self, node: NodeProcess, kinds: Collection[str] = KEPT) -> None:
        self.node = node
        self.name = node.name
        self._path = node.data / "events.jsonl"
        self._file: TextIO | None = None
        self._rest = ""
        self._entries: dict[str, list[Line]] = {kind: [] for kind in kinds}

    def entries(self, kind: str, since: float = 0.0) -> list[Line]:
        """Return the events of one kind from a wall time on."""
        self._read()
        return [entry for entry in self._entries[kind] if entry["time"] >= since]

    def view(self) -> tuple[int, int]:
        """Return its latest view: how many members and which."""
        views = self.entries("view")
        return (views[-1]["members"], views[-1]["view"]) if views else (1, 0)

    def left_out(self, name: str, since: float) -> float | None:
        """Return when it dropped somebody from its view since a wall time, if it has."""
        drops = [e["time"] for e in self.entries("view", since) if e["name"] == name and e["state"] in ("dead", "left")]
        return drops[0] if drops else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self) -> None:
        if self._file is None:
            if not self._path.exists():
                return
            self._file = open(self._path)  # noqa: SIM115  (kept open between events)
        self._take(self._file)
        with suppress(FileNotFoundError):  # between the two steps of a rotation
            if os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino:
                self._take(self._file)
                self._file.close()
                self._file = open(self._path)  # noqa: SIM115
                self._take(self._file)

    def _take(self, file: TextIO) -> None:
        *lines, self._rest = (self._rest + file.read()).split("\n")
        for line in lines:
            with suppress(ValueError):  # a kill may tear a line
                entry = json.loads(line)
                if (kept := self._entries.get(entry["event"])) is not None:
                    kept.append(entry)


def agreed(diaries: Sequence[Diary]) -> bool:
    """Whether all hold one view: each other, and nobody else."""
    for diary in diaries:
        assert diary.node.running, f"{diary.name} ended early: {diary.node.said}"
    views = {diary.view() for diary in diaries}
    return len(views) == 1 and views.pop()[0] == len(diaries)


class Watched:
    """Nodes, their diaries, and what was done to them."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.nodes = list(nodes)
        self.diaries = [Diary(node) for node in nodes]
        self.faults: list[Fault] = []

    def start(self) -> None:
        """Start all and wait until they finish rounds together."""
        for node in self.nodes:
            node.start()
        self.settle()

    def settle(self, rounds: int = 2) -> None:
        """Wait until all hold one view and have ended some rounds with it."""
        eventually(lambda: agreed(self.diaries), "all nodes hold one view")
        goals = {diary: len(diary.entries("round")) + rounds for diary in self.diaries}
        eventually(lambda: all(len(d.entries("round")) >= goal for d, goal in goals.items()), "all finish rounds")

    @contextmanager
    def harm(self, kind: str, *nodes: NodeProcess) -> Iterator[float]:
        """Note that something is done to nodes while this lasts; the value is the wall time of its start."""
        start = time.time()
        try:
            yield start
        finally:
            self.faults.append(Fault(kind, start, time.time(), tuple(node.name for node in nodes)))

    def add(self, node: NodeProcess) -> None:
        """Read along with one more."""
        self.nodes.append(node)
        self.diaries.append(Diary(node))

    def others(self, node: NodeProcess) -> list[Diary]:
        """Return the diaries of all but one."""
        return [diary for diary in self.diaries if diary.node is not node]

    def left_out(self, victim: NodeProcess, since: float) -> list[float]:
        """Wait until all others have dropped a node from their views; return the wall times at which they did."""

        def drops() -> list[float]:
            times = [diary.left_out(victim.name, since) for diary in self.others(victim)]
            return [t for t in times if t is not None] if None not in times else []

        return eventually(drops, f"all leave out {victim.name}")


@contextmanager
def watched(folder: Path, nodes: Sequence[NodeProcess], *, one_clock: bool = True) -> Iterator[Watched]:
    """Read along with nodes whose data lie in a folder; end them, and see that nothing happened that never must.

    one_clock: their wall times can be compared.
    """
    seen = Watched(nodes)
    try:
        yield seen
    finally:
        for diary in seen.diaries:
            diary.close()
    end(seen.nodes)
    if one_clock:
        write_faults(folder, seen.faults)
    violations = check(read([folder]))
    assert not violations, "\n" + table(violations)


def two_seeds(nodes: Sequence[NodeProcess]) -> None:
    """Let every node know two others by their addresses: whichever is away, somebody introduces the rest."""
    for node in nodes:
        others = [other.address for other in nodes if other is not node]
        node.settings["membership.peers"] = others[:2]


@contextmanager
def mesh_over(net: Lab, folder: Path, **over: Any) -> Iterator[list[NodeProcess]]:
    """Describe nodes of one run, one on each host of the lab; end whatever still runs."""
    count = len(net.hosts)
    nodes = [
        NodeProcess(
            folder,
            f"n{i}",
            f"{host.address}:{PORT}",
            {"task.index": i, "task.count": count, "membership.expect": count, "node.insecure": True} | dotted(over),
            host.path,
        )
        for i, host in enumerate(net.hosts)
    ]
    two_seeds(nodes)
    try:
        yield nodes
    finally:
        end(nodes)


@contextmanager
def starved(nodes: Sequence[NodeProcess], share: float) -> Iterator[Callable[[], int]]:
    """Give each of the nodes so much of one processor; the value tells how often they were held back.

    By a quota of the kernel's where we may set one, else by stopping and continuing them ten times a second.
    """
    with ExitStack() as stack:
        if os.access(CPU_GROUPS / "cpu.cfs_quota_us", os.W_OK):
            groups = [stack.enter_context(_quota(node.pid, share)) for node in nodes]
            yield lambda: sum(_throttled(group) for group in groups)
        else:
            stops = stack.enter_context(pausing(nodes, stop_s=0.1 * (1 - share), run_s=0.1 * share))
            yield stops.__len__


@contextmanager
def pausing(nodes: Sequence[NodeProcess], *, stop_s: float, run_s: float) -> Iterator[list[Fault]]:
    """Stop and continue nodes again and again; the value is what was done so far."""
    done: list[Fault] = []
    enough = Event()

    def work() -> None:
        while not enough.wait(run_s):
            start = time.time()
            for node in nodes:
                node.signal(signal.SIGSTOP)
            enough.wait(stop_s)
            for node in nodes:
                node.signal(signal.SIGCONT)
            done.append(Fault(PAUSE, start, time.time(), tuple(node.name for node in nodes)))

    thread = Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        enough.set()
        thread.join()


@contextmanager
def _quota(pid: int, share: float) -> Iterator[Path]:
    group = CPU_GROUPS / f"peermerge-test-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_US)))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for each in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):  # it has ended meanwhile
                (CPU_GROUPS / "cgroup.procs").write_text(each)
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def _throttled(group: Path) -> int:
    figures = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(figures["nr_throttled"])


def show(title: str, times: dict[str, list[float]]) -> None:
    """Print a table of times in seconds."""
    print(f"\n{title}\n{'':24}{'count':>6}{'median':>9}{'worst':>9}")
    for name, seconds in times.items():
        print(f"{name:24}{len(seconds):6}{statistics.median(seconds):9.3f}{max(seconds):9.3f}")
