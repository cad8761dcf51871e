"""A killed node comes back where it was, soon, and its earlier life is outdone."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..integration.daemons import NodeProcess, eventually, mesh

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]


def seconds_to_serve(node: NodeProcess) -> float:
    """Start a node, which is the fork of a process that has imported everything; return how long it takes to answer."""
    began = time.monotonic()
    node.start()
    assert node.status().node == node.name
    return time.monotonic() - began


def known(node: NodeProcess, name: str) -> tuple[int, bool]:
    """Return which life of a member a node knows, and whether it holds it for a member."""
    status = node.status()
    return next(m.incarnation for m in status.roster if m.name == name), name in status.members


def follows(node: NodeProcess, peer: str, version: int) -> bool:
    """Whether a node has applied a later version of a peer, of the log epoch that it followed from the start."""
    applied = [e for e in node.events("applied") if e["peer"] == peer]
    assert {e["epoch"] for e in applied} == {1}
    return int(applied[-1]["version"]) > version


def kill_and_restart(victim: NodeProcess, others: Sequence[NodeProcess], life: int) -> float:
    """Kill a node in its n-th life and start it again; return the seconds until it serves."""
    rounds = len(victim.events())
    eventually(lambda: len(victim.events()) >= rounds + 3 and victim.reached(0, life), "it has run some rounds")
    victim.kill()
    rounds, published = len(victim.events()), victim.events("published")[-1]
    seconds = seconds_to_serve(victim)
    start = victim.events("start")[-1]
    assert start["incarnation"] == victim.status().incarnation == life + 1
    assert published["round"] <= start["round"] <= published["round"] + 1, "it goes on at the last durable round"
    alive, began = (life + 1, True), time.monotonic()
    eventually(lambda: all(known(other, victim.name) == alive for other in others), "its new life is known")
    print(f"life {life + 1}: known to all {time.monotonic() - began:.2f} s after it served")
    eventually(lambda: len(victim.events()) > rounds, "it runs rounds")
    assert victim.events("published")[-1]["version"] > published["version"]
    version = published["version"]
    eventually(lambda: all(follows(other, victim.name, version) for other in others), "it is followed")
    return seconds


def test_a_killed_node_serves_again_at_its_last_durable_round(tmp_path: Path) -> None:
    with mesh(tmp_path, 3, schedule__rounds=0) as nodes:
        first = max(seconds_to_serve(node) for node in nodes)
        victim, others = nodes[1], (nodes[0], nodes[2])
        again = max(kill_and_restart(victim, others, life) for life in (1, 2, 3))
        print(f"serving {again:.2f} s after a restart at the latest, {again / first:.2f} x of a first start")
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.wait() for node in nodes] == [0, 0, 0]
