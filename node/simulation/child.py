"""`peermerge` as a simulation's child: the same command line in a process that ends when its parent does.

python -m peermerge.node.simulation.child PARENT_PID node start --config node.toml
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from ..cli import main as peermerge

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when `parent` ends; exit if it has ended already. Only Linux knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)


def main() -> None:
    """Bind this process's life to its parent's, then run the command line."""
    parent = sys.argv.pop(1)
    end_with(int(parent))
    peermerge()


if __name__ == "__main__":
    main()
