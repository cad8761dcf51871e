"""What neighbours cost in memory is bounded by the model and by what one may send, however many send at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..integration.daemons import NodeProcess, eventually, mesh

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 1 << 20
SENDERS = 8
ROUNDS = 4
OVERHEAD_BYTES = 64 * MIB


def peak_bytes(node: NodeProcess) -> int:
    """Return the most resident memory that a node's process has had so far, mapped files included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{node.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def after_rounds(nodes: list[NodeProcess]) -> list[int]:
    """Run nodes for some rounds and return their peaks."""
    for node in nodes:
        node.start()
    for node in nodes:
        eventually(lambda n=node: n.reached(ROUNDS), f"{node.name} runs", 300.0)  # type: ignore[misc]
    return [peak_bytes(node) for node in nodes]


def test_many_senders_at_once_cost_their_replicas_and_a_frame_each(tmp_path: Path) -> None:
    over = {
        "task__name": "bytes-gpt",
        "task__arguments": {"width": 256, "layers": 5, "context": 16, "batch": 2, "test_size": 4, "partition": "iid"},
        "publish__lossless": True,
        "topology__name": "complete",
        "schedule__rounds": 0,
        "round__floor_s": 30.0,
        "round__ceiling_s": 60.0,
    }
    folders = [tmp_path / "alone", tmp_path / "mesh"]
    for folder in folders:
        folder.mkdir()
    with mesh(folders[0], 1, **over) as nodes:
        (alone,) = after_rounds(nodes)
    with mesh(folders[1], 1 + SENDERS, **over) as nodes:
        peaks = after_rounds(nodes)
        merged = [event["merged"] for node in nodes for event in node.events()[1 : ROUNDS + 1]]
        assert any(len(names) == SENDERS for names in merged), "all of them send in one round"
        status = nodes[0].status()
    parameters, frame = status.parameters, int(4 * status.parameters / status.compression_ratio)
    bound = SENDERS * (4 * parameters + frame) + OVERHEAD_BYTES
    for node, peak in zip(nodes, peaks, strict=True):
        grown = peak - alone
        print(f"{node.name}: {grown / MIB:.0f} MiB more than alone ({alone / MIB:.0f}); bound {bound / MIB:.0f}")
        assert 4 * parameters < grown <= bound, "replicas are there, and no more than is allowed"
