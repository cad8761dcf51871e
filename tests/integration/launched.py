"""Run by `daemons.py` in a forked process: become the command line, with an output file of one's own."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from peermerge.node.cli import main

ARGUMENTS: list[str] = globals()["arguments"]
FOLDER: str = globals()["folder"]
OUTPUT: str = globals()["output"]
NAMESPACE: str | None = globals()["namespace"]

if NAMESPACE:
    with open(NAMESPACE) as file:
        # Any namespace that the descriptor is of; Python has os.setns from 3.12 on.
        assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0, NAMESPACE
os.chdir(FOLDER)
descriptor = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)
sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
sys.argv = ["peermerge", *ARGUMENTS]
torch.set_num_threads(1)
main()
