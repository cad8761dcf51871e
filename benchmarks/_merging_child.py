"""Run a command and print, as the last line, what it took: CPU and wall seconds and the peak of its memory, as JSON.

A program of its own that imports next to nothing: Linux counts the memory of the process that starts a child among
the child's peak.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Run what the arguments say, its output on standard error; fail if it fails."""
    started = time.monotonic()
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, used = os.wait4(child, 0)
    wall = time.monotonic() - started
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "wall": wall, "mb": used.ru_maxrss * 1024 / 1e6}))
    sys.exit(status != 0)


if __name__ == "__main__":
    main()
