"""File systems to be hurt: small, mounted for one test. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str | Path) -> None:
    """Run a command; skip the test if this machine does not allow it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def mounted(place: Path, *arguments: str | Path) -> Iterator[Path]:
    """Mount something on a folder."""
    if os.geteuid():
        pytest.skip("only root may mount")
    place.mkdir(exist_ok=True)
    _run("mount", *arguments, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def read_only(place: Path) -> None:
    """Refuse writes through what is mounted here; nobody may have a file open for writing there yet."""
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)


def make_ext4(image: Path, size: int) -> None:
    """Make a file that holds an empty ext4 file system."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    with open(image, "wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", image)


@contextmanager
def ext4(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image so that nothing reaches it but what is synced: for a minute."""
    with mounted(place, "-o", "loop,noauto_da_alloc,commit=60", image):
        yield place


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size in memory."""
    with mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield place
