import ctypes
import platform
import subprocess
import sys

import pytest

from peermerge.protocol.allocator import share_one_arena

THREADS = 6
ARENA = 64 << 20
"""Address space that glibc sets aside for a further arena."""
PROGRAM = f"""
import threading
from pathlib import Path
from peermerge.protocol.allocator import share_one_arena

def size():
    return next(int(l.split()[1]) << 10 for l in Path("/proc/self/status").read_text().splitlines() if "VmSize" in l)

def work():
    kept.append(bytes(100_000))
    gate.wait()

{{}}
kept, gate, before = [], threading.Barrier({THREADS + 1}), size()
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
gate.wait()
print(size() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize("shared", [True, False])
def test_threads_take_their_memory_from_one_arena(shared: bool) -> None:
    program = PROGRAM.format("share_one_arena()" if shared else "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 2 * ARENA) == shared


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    share_one_arena()
