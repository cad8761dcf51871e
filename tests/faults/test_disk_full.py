"""A node whose disk is full or read-only trains, merges and serves on, says so, and recovers by itself."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from peermerge.node import checkpoint as checkpoints
from peermerge.node.storage import DiskStorage

from ..integration.daemons import NodeProcess, eventually, mesh
from .disks import mounted, read_only, tmpfs

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]
ROUNDS = 5
"""Rounds for which the fault lasts."""


@contextmanager
def full(data: Path) -> Iterator[None]:
    """Let no byte be free."""
    filler = data / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Let nothing be written under this path: every path leads through a read-only mount."""
    with mounted(data, "--bind", data):
        read_only(data)
        yield


FAULTS: dict[str, tuple[Callable[[Path], AbstractContextManager[None]], str]] = {
    "full": (full, "No space left on device"),
    "read-only": (locked, "Read-only file system"),
}


def merged(node: NodeProcess) -> int:
    """Return how many contributions a node has merged."""
    return sum(peer.merged for peer in node.status().peers)


def last_checkpoint(node: NodeProcess) -> int:
    """Return the round of the newest checkpoint; it must be whole."""
    saved, damaged = checkpoints.load(DiskStorage(node.data, lock=False))
    assert damaged == []
    return saved.round if saved else -1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_without_a_disk_goes_on_and_recovers_within_two_rounds(tmp_path: Path, fault: str) -> None:
    strike, reason = FAULTS[fault]
    with (
        mesh(tmp_path, 3, schedule__rounds=0, membership__expect=2) as (stable, hurt, newcomer),
        tmpfs(hurt.data, "8m"),
    ):
        for node in (stable, hurt):
            node.start()
        hurt.until(4)
        eventually(lambda: last_checkpoint(hurt) > 0, "a checkpoint is there")
        with strike(hurt.data):
            eventually(lambda: hurt.status().phase == "degraded", "the fault is noticed")
            before, contributions, saved = hurt.status(), merged(hurt), last_checkpoint(hurt)
            assert any("DEGRADED" in warning and reason in warning for warning in before.warnings)
            eventually(lambda: hurt.status().round >= before.round + ROUNDS, "it goes on training")
            eventually(lambda: merged(hurt) >= contributions + ROUNDS, "and merging")
            newcomer.start()
            eventually(lambda: any(e["peer"] == hurt.name for e in newcomer.events("applied")), "and serving")
            now = hurt.status()
            assert (now.phase, now.epoch, now.version) == ("degraded", before.epoch, before.version)
            assert last_checkpoint(hurt) == saved >= 0, "the last good checkpoint is intact"
            assert stable.status().phase != "degraded"
            freed = hurt.status().round
        freed = max(freed, hurt.status().round)
        eventually(lambda: hurt.status().phase != "degraded", "it recovers by itself")
        back = eventually(
            lambda: [e for e in hurt.events("published") if e["version"] > before.version], "it publishes"
        )
        print(f"{fault}: degraded for {freed - before.round} rounds, published again {back[0]['round'] - freed} later")
        assert back[0]["round"] <= freed + 2
        assert back[0]["epoch"] == before.epoch, "nothing that it had published is lost"
        eventually(lambda: last_checkpoint(hurt) > freed, "it saves again")
        eventually(
            lambda: any(e["peer"] == hurt.name and e["version"] > before.version for e in stable.events("applied")),
            "it is followed again",
        )
        for node in (stable, hurt, newcomer):
            node.signal(signal.SIGTERM)
        assert [node.wait() for node in (stable, hurt, newcomer)] == [0, 0, 0]
