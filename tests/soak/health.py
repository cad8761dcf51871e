"""What a node's process takes as time goes by, and whether it grows."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from .world import World

MIB = 1 << 20
WINDOW_S = 5.0
ROUND_LINE = "] round "


@dataclass(frozen=True, slots=True)
class Sample:
    """One node at one moment."""

    time: float
    node: str
    life: int
    rss: int
    fds: int
    threads: int
    disk: int
    """Bytes of its data directory but for the event log."""
    lines: int
    """Printed so far in all lives, but for the lines of rounds."""


def samples(world: World) -> list[Sample]:
    """Return a sample of each running node; one that ends meanwhile is left out."""
    found = []
    for node in world.running:
        try:
            process = psutil.Process(node.pid)
            with process.oneshot():
                rss, fds, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
        except psutil.Error:
            continue
        lines = sum(ROUND_LINE not in line for line in world.said(node).splitlines())
        life = world.lives[node.name]
        found.append(Sample(time.time(), node.name, life, rss, fds, threads, disk_bytes(node.data), lines))
    return found


def disk_bytes(folder: Path) -> int:
    """Return the size of what a node keeps, but for its event log; files that go meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.name.startswith("events."):
                total += path.stat().st_size
        except OSError:
            continue
    return total


def slope(rounds: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much a value grows in a round: the least squares line."""
    return float(np.polyfit(rounds, values, 1)[0])


def growth(taken: Sequence[Sample], ends: Sequence[float], *, skip: int, least: int) -> float | None:
    """Return by how many MiB one life's memory grows in 1,000 rounds, or None if it has not lasted long enough.

    ends: when each of its rounds ended. skip: rounds at the start that do not count; least: how many must.
    """
    placed = [(bisect_right(ends, sample.time), sample.rss / MIB) for sample in taken]
    counted = [(place, rss) for place, rss in placed if place >= skip]
    if len(counted) < 3 or counted[-1][0] - counted[0][0] < least:
        return None
    rounds, rss = zip(*counted, strict=True)
    return 1000 * slope(rounds, rss)


def drift(values: Sequence[int], window: int) -> float:
    """Return how much higher the middle of the last values is than that of the first."""
    return float(median(values[-window:]) - median(values[:window]))


def lines_per_second(taken: Sequence[Sample]) -> float:
    """Return how many lines a node printed a second at its fastest, over at least `WINDOW_S` of one life."""
    fastest, start = 0.0, 0
    for sample in taken:
        if sample.time - taken[start].time >= WINDOW_S:
            fastest = max(fastest, (sample.lines - taken[start].lines) / (sample.time - taken[start].time))
            start += 1
    return fastest
