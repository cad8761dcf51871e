"""A network switch in user space: frames between TAP devices, with faults of its own for each direction of each pair.

Kernels without netem cannot delay a packet. It learns nothing: the last byte of a destination's hardware address is
the host's number, and frames for anybody else are dropped. Run as a process, so that nothing a test does delays a
frame: its arguments are the descriptors of the hosts' devices, commands come as JSON lines on standard input, and
each is answered by all counters on standard output. It ends with its input.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

QUEUE_S = 0.5
"""What a link of limited rate holds back, in seconds; frames beyond it are dropped."""
FRAME_BYTES = 1 << 16
BURST = 64
"""Frames read from one device before the others have their turn."""


@dataclass(frozen=True, slots=True)
class Link:
    """How one direction between two hosts treats frames."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more or less delay; frames stay in order."""
    loss: float = 0.0
    duplication: float = 0.0
    rate_bytes_s: float = 0.0
    """0: no limit."""
    cut: bool = False


@dataclass(slots=True)
class Counters:
    """What became of the frames of one direction."""

    passed: int = 0
    bytes: int = 0
    cut: int = 0
    lost: int = 0
    duplicated: int = 0
    overflowed: int = 0
    """Dropped by a full queue, here or in the receiver."""
    delayed_s: float = 0.0
    """In total over all frames."""


class Direction:
    """One direction between two hosts: decides when each frame arrives, if at all."""

    def __init__(self, rng: Random) -> None:
        self.link = Link()
        self.counters = Counters()
        self._rng = rng
        self._free_at = 0.0
        self._last = 0.0

    def arrivals(self, now: float, size: int) -> Sequence[float]:
        """Return the times at which a frame of so many bytes arrives: none if it is lost, two if it is doubled."""
        link, counters = self.link, self.counters
        if link.cut:
            counters.cut += 1
            return ()
        if self._rng.random() < link.loss:
            counters.lost += 1
            return ()
        sent = max(now, self._free_at) if link.rate_bytes_s else now
        if sent - now > QUEUE_S:
            counters.overflowed += 1
            return ()
        if link.rate_bytes_s:
            sent = self._free_at = sent + size / link.rate_bytes_s
        self._last = max(self._last, now, sent + link.delay_s + self._rng.uniform(-link.jitter_s, link.jitter_s))
        counters.delayed_s += self._last - now
        doubled = self._rng.random() < link.duplication
        counters.duplicated += doubled
        return (self._last,) * (1 + doubled)


class Switch:
    """Moves frames between devices until its commands end."""

    def __init__(self, devices: Sequence[int], seed: int = 0) -> None:
        self._devices = list(devices)
        hosts = range(len(devices))
        self._directions = {(a, b): Direction(Random(f"{seed}/{a}/{b}")) for a in hosts for b in hosts if a != b}
        self._waiting: list[tuple[float, int, int, int, bytes]] = []
        self._number = 0

    def run(self, commands: int) -> None:
        """Serve the devices, and the commands that come on a descriptor."""
        poll = select.poll()
        sources = {device: number for number, device in enumerate(self._devices)}
        for descriptor in (commands, *sources):
            poll.register(descriptor, select.POLLIN)
        rest = b""
        while True:
            self._deliver(time.monotonic())
            for descriptor, _ in poll.poll(self._patience_ms()):
                if descriptor != commands:
                    self._forward(sources[descriptor])
                    continue
                if not (read := os.read(commands, FRAME_BYTES)):
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    print(json.dumps(self._obey(**json.loads(line))), flush=True)

    def _patience_ms(self) -> float | None:
        return max(0.0, self._waiting[0][0] - time.monotonic()) * 1000 if self._waiting else None

    def _forward(self, source: int) -> None:
        for frame in _frames(self._devices[source]):
            target = frame[5] - 1 if len(frame) > 5 else -1
            if (direction := self._directions.get((source, target))) is None:
                continue
            now = time.monotonic()
            for due in direction.arrivals(now, len(frame)):
                if due <= now:
                    self._write(source, target, frame)
                else:
                    self._number += 1
                    heapq.heappush(self._waiting, (due, self._number, source, target, frame))

    def _deliver(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            _, _, source, target, frame = heapq.heappop(self._waiting)
            self._write(source, target, frame)

    def _write(self, source: int, target: int, frame: bytes) -> None:
        counters = self._directions[source, target].counters
        try:
            os.write(self._devices[target], frame)
        except BlockingIOError:
            counters.overflowed += 1
        else:
            counters.passed += 1
            counters.bytes += len(frame)

    def _obey(self, pairs: list[tuple[int, int]], changes: dict[str, Any]) -> list[tuple[int, int, dict[str, float]]]:
        for source, target in pairs:
            direction = self._directions[source, target]
            direction.link = replace(direction.link, **changes)
        return [(source, target, asdict(d.counters)) for (source, target), d in self._directions.items()]


def _frames(device: int) -> Iterator[bytes]:
    for _ in range(BURST):
        try:
            yield os.read(device, FRAME_BYTES)
        except BlockingIOError:
            return


if __name__ == "__main__":
    Switch([int(argument) for argument in sys.argv[1:]]).run(sys.stdin.fileno())
