"""One node's wall clock is wrong, jumps and runs fast: nobody notices, for nothing depends on it."""

from __future__ import annotations

import multiprocessing
import shutil
import struct
import subprocess
import time
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import pytest

from ..integration.daemons import NodeProcess, eventually, mesh
from .processes import Watched, two_seeds, watched

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]
HOUR_S = 3600.0
SKEW = struct.Struct("ddQ")
"""Seconds ahead, seconds in a second, and how often the clock was read."""
LONG_ENOUGH_S = 2.0
ROUNDS = 5
LATE = {"DEADLINE", "REPLAYED"}
"""Why a state that came is not merged in a round though nothing is wrong with it: it is of an earlier one."""


class Clock:
    """The wall clock of processes that are started with `LD_PRELOAD` and `CLOCK_SKEW` set to this."""

    def __init__(self, folder: Path, ahead_s: float) -> None:
        self.library = folder / "clock_skew.so"
        self.file = folder / "clock_skew"
        source = Path(__file__).with_name("clock_skew.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", self.library, source, "-ldl", "-lm"], check=True)
        self.file.write_bytes(SKEW.pack(ahead_s, 1.0, 0))

    def set(self, ahead_s: float, rate: float = 1.0) -> None:
        """Let it be so far ahead, and go so much faster since the process started."""
        with open(self.file, "r+b") as file:
            file.write(SKEW.pack(ahead_s, rate, 0)[:16])

    @property
    def asked(self) -> int:
        """How often it was read."""
        count: int = SKEW.unpack(self.file.read_bytes())[2]
        return count


class Skewed(NodeProcess):
    """A node that is no fork: the clock is put under it when its program is loaded."""

    def __init__(self, folder: Path, like: NodeProcess, clock: Clock) -> None:
        super().__init__(folder, like.name, like.address, like.settings)
        self._clock = clock

    def start(self, *flags: str, **over: Any) -> NodeProcess:
        """Start the process with the wrong clock."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LD_PRELOAD", str(self._clock.library))
            environment.setenv("CLOCK_SKEW", str(self._clock.file))
            return super().start(*flags, **over)

    def _context(self) -> SpawnContext:
        return multiprocessing.get_context("spawn")


def unharmed(seen: Watched, what: str) -> None:
    """Let rounds go on; fail if a view changed, or a state was refused."""
    until = time.monotonic() + LONG_ENOUGH_S
    since = {diary: len(diary.entries("merge")) for diary in seen.diaries}
    seen.settle(ROUNDS)
    eventually(lambda: time.monotonic() > until, "enough time")
    for diary in seen.diaries:
        changes = diary.entries("view")[len(seen.nodes) - 1 :]
        assert not changes, f"{what}: {diary.name} changes its view: {changes}"
        refused = [e for e in diary.entries("merge")[since[diary] :] if set(e["skipped"].values()) - LATE]
        assert not refused, f"{what}: {diary.name} refuses states: {refused}"
    print(f"{what}: {[len(diary.entries('round')) for diary in seen.diaries]} rounds")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to compile the clock with")
@pytest.mark.parametrize("hours", [2, pytest.param(-2, marks=pytest.mark.slow)])
def test_a_wrong_clock_changes_nothing(tmp_path: Path, hours: int) -> None:
    ahead_s = hours * HOUR_S
    clock = Clock(tmp_path, ahead_s)
    with mesh(tmp_path, 3, schedule__rounds=0) as nodes:
        two_seeds(nodes)
        nodes[2] = Skewed(tmp_path, nodes[2], clock)
        with watched(tmp_path, nodes, one_clock=False) as seen:
            seen.start()
            wrong = seen.diaries[2].entries("start")[0]["time"] - seen.diaries[0].entries("start")[0]["time"]
            assert wrong == pytest.approx(ahead_s, abs=HOUR_S / 10)
            unharmed(seen, f"{hours:+} h from the start")
            clock.set(ahead_s + HOUR_S)
            unharmed(seen, "a jump of an hour ahead")
            clock.set(ahead_s)
            unharmed(seen, "a jump of an hour back")
            clock.set(ahead_s, rate=1.5)
            unharmed(seen, "a clock that runs half as fast again")
    assert clock.asked > 100
