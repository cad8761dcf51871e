"""A writer of a log and of checkpoints, and how to let any one of its system calls fail or kill it.

The writer is a fork of a process that has imported everything, so that it starts in no time; strace attaches to it
before it writes and injects the fault. What it acknowledges it notes by `writev`, which no fault touches.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from peermerge.node import checkpoint as checkpoints
from peermerge.node.checkpoint import Checkpoint
from peermerge.node.log import PublishedLog
from peermerge.node.storage import DiskStorage, MemoryStorage, Storage
from peermerge.protocol.errors import DegradedError
from peermerge.protocol.messages import Point

from ..node.worlds import header, publisher, random_delta

VERSIONS = 4
RETENTION = 1
ATTEMPTS = 50
"""A disk that refuses for good ends the writer after so many."""
CALLS = (
    *("openat", "open", "creat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "truncate", "fallocate"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "link", "linkat", "rmdir"),
)
"""Every system call by which a writer of ours may change a directory."""
REPOSITORY = Path(__file__).resolve().parents[2]


# ---- The writer. ----


def opened(storage: Storage) -> PublishedLog:
    """Open the log, whose tail is so short that every second version is compacted."""
    return publisher(storage, retention=RETENTION)


def append(log: PublishedLog, attempt: int) -> None:
    """Publish; every attempt has something else to say."""
    log.append(random_delta(np.random.default_rng(attempt)), header(log.last_round + 1))


def checkpoint_of(log: PublishedLog) -> Checkpoint:
    """Return a checkpoint that shows which version it was taken at."""
    tau = torch.full((64,), float(log.version))
    return Checkpoint(log.version, log.epoch, log.version, tau, {"steps": [log.version, tau]}, {}, {})


def write_all(storage: Storage, log: PublishedLog, say: Callable[..., None], look: Callable[[], Point]) -> None:
    """Publish and save some versions; go on after every refusal of the disk."""
    saved = 0
    for attempt in range(ATTEMPTS):
        try:
            if saved == log.version:
                say("publish", attempt)
                append(log, attempt)
                say("published", attempt)
            say("save", log.version)
            checkpoints.save(storage, checkpoint_of(log))
            saved = log.version
            say("saved", saved)
        except DegradedError:
            # Whoever opens the directory now finds what was acknowledged, or what was just refused.
            say("refused", list(look().chain))
        if saved == VERSIONS:
            return


# ---- What it acknowledged. ----


@dataclass(slots=True)
class Story:
    """What a writer said."""

    published: list[int] = field(default_factory=list)
    """The attempts that were acknowledged, a version each."""
    tried: list[int] = field(default_factory=list)
    """The attempts since the last of those."""
    saved: int = 0
    saving: list[int] = field(default_factory=list)
    found: list[set[bytes]] = field(default_factory=list)
    refusals: int = 0

    def tell(self, word: str, value: Any) -> None:
        """Take what the writer says next."""
        match word:
            case "publish":
                self.tried.append(value)
            case "published":
                self.published.append(value)
                self.tried = []
            case "save":
                self.saving.append(value)
            case "saved":
                self.saved, self.saving = value, []
            case "refused":
                self.refusals += 1
                assert bytes(value) in {point.chain for point in self.points}, "found after a refusal"

    @property
    def points(self) -> set[Point]:
        """The heads that a log may have after this: what was acknowledged, or that and what was being written."""
        return {point_after(tuple(self.published)), *(point_after((*self.published, each)) for each in self.tried)}


@functools.cache
def point_after(attempts: tuple[int, ...]) -> Point:
    """Return the head of a log to which these attempts were published."""
    log = opened(MemoryStorage())
    for attempt in attempts:
        append(log, attempt)
    return log.point


def check(root: Path, story: Story) -> None:
    """Open a directory as the next process does: it holds what was acknowledged, and goes on."""
    storage = DiskStorage(root)
    try:
        assert not list(root.rglob("*.tmp"))
        log = opened(storage)
        assert log.dropped == []
        assert log.point in story.points
        saved, damaged = checkpoints.load(storage)
        assert damaged == []
        assert (saved.round if saved else 0) in (story.saved, *story.saving)
        if saved is not None:
            assert torch.equal(saved.tau, torch.full((64,), float(saved.round)))
            assert saved.state["steps"][0] == saved.version == saved.round
        append(log, ATTEMPTS)
        checkpoints.save(storage, checkpoint_of(log))
        again, newest = opened(storage), checkpoints.load(storage)[0]
        assert again.point == log.point
        assert newest is not None
        assert newest.version == log.version
    finally:
        storage.close()


def look(root: Path) -> Point:
    """Return the head that another process finds, beside the one that holds the lock."""
    return opened(DiskStorage(root, lock=False)).point


# ---- The processes. ----


class Writers:
    """Starts writers, with strace at their side."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, root: Path, trace: Path, *options: str) -> tuple[int, Story]:
        """Let a writer fill an empty directory under strace; return its exit code and what it said.

        Raises PermissionError if strace may not attach.
        """
        root.mkdir()
        self._write(f"{root}\n")
        pid = self._line()
        command = ["strace", "-y", "-o", str(trace), "-p", pid, "-e", f"trace={','.join(CALLS)}", *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            self._write("go\n")
            code = int(self._line())
            strace.communicate()
        if "attached" not in said:
            raise PermissionError(said)
        story = Story()
        for line in root.with_suffix(".said").read_text().splitlines():
            story.tell(*json.loads(line))
        return code, story

    def _write(self, text: str) -> None:
        _pipe(self._process.stdin).write(text.encode())

    def _line(self) -> str:
        return _pipe(self._process.stdout).readline().decode().strip()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


@contextmanager
def writers() -> Iterator[Writers]:
    """Run the process that writers are forks of."""
    command = [sys.executable, "-m", "tests.faults.crash_points"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, bufsize=0) as process:
        try:
            yield Writers(process)
        finally:
            process.kill()


def calls_on(root: Path, trace: Path) -> list[tuple[str, int]]:
    """Return the system calls that touch a directory: each by its name and its place among those of that name."""
    seen: Counter[str] = Counter()
    found = []
    for line in trace.read_text().splitlines():
        if (call := re.match(r"(\w+)\(", line)) is not None:
            seen[call[1]] += 1
            if str(root) in line:
                found.append((call[1], seen[call[1]]))
    return found


def _serve() -> None:
    """Fork a writer for every folder named on the standard input."""
    while root := _read_line():
        if not (pid := os.fork()):
            _be_writer(Path(root))
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _be_writer(root: Path) -> None:
    said = os.open(root.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(*words: object) -> None:
        os.writev(said, [json.dumps(words).encode() + b"\n"])

    try:
        storage = DiskStorage(root)
        log = opened(storage)
        os.write(1, f"{os.getpid()}\n".encode())  # from here on it waits to be traced
        assert _read_line() == "go"
        write_all(storage, log, say, functools.partial(look, root))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _read_line() -> str:
    """Read a line and no byte more: the rest is for the fork."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


KILLED = -signal.SIGKILL

if __name__ == "__main__":
    torch.set_num_threads(1)
    _serve()
