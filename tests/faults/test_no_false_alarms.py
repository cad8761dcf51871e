"""No live node is taken for dead: not over bad links, not when starved of processor time, not when it pauses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ..integration.daemons import mesh
from .lab import lab, needs_lab
from .processes import Watched, mesh_over, pausing, starved, two_seeds, watched

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
EDITIONS = pytest.mark.parametrize(("count", "seconds"), [(4, 6.0), pytest.param(8, 600.0, marks=pytest.mark.slow)])
PAUSE_S, EVERY_S = 2.0, 20.0
STARVED_SHARE = 0.2


def nobody_dies(seen: Watched, seconds: float) -> None:
    """Let the nodes go on for a while; fail at the first death that anybody claims."""
    since = time.time()
    while time.time() < since + seconds:
        for diary in seen.diaries:
            assert diary.node.running, f"{diary.name} ended: {diary.node.said}"
            deaths = [e for e in diary.entries("view", since) if e["state"] == "dead"]
            assert not deaths, f"{diary.name} claims after {deaths[0]['time'] - since:.1f} s: {deaths[0]}"
        time.sleep(0.2)
    rounds = [len(diary.entries("round", since)) for diary in seen.diaries]
    suspicions = sum(len(diary.entries("suspect", since)) for diary in seen.diaries)
    print(f"\n{len(rounds)} nodes, {seconds:.0f} s: {rounds} rounds, {suspicions} suspicions, no death")
    assert all(rounds)


@needs_lab
@EDITIONS
def test_links_that_lose_and_delay_kill_nobody(tmp_path: Path, count: int, seconds: float) -> None:
    with lab(count) as net, mesh_over(net, tmp_path, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        net.shape(delay_s=0.02, jitter_s=0.01, loss=0.05)
        seen.start()
        lost = net.counters().lost
        nobody_dies(seen, seconds)
        counters = net.counters()
        assert counters.lost > lost
        assert counters.delayed_s / (counters.passed + counters.overflowed) > 0.015
        print(f"{counters.lost / (counters.lost + counters.passed):.1%} of the frames lost")


@EDITIONS
def test_two_starved_nodes_are_not_taken_for_dead(tmp_path: Path, count: int, seconds: float) -> None:
    with mesh(tmp_path, count, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        two_seeds(nodes)
        seen.start()
        with starved(nodes[-2:], STARVED_SHARE) as held_back:
            nobody_dies(seen, seconds)
            print(f"held back {held_back()} times")
            assert held_back() > seconds


@EDITIONS
def test_a_node_that_pauses_is_not_taken_for_dead(tmp_path: Path, count: int, seconds: float) -> None:
    every_s = min(EVERY_S, seconds / 2)
    with mesh(tmp_path, count, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        two_seeds(nodes)
        seen.start()
        with pausing(nodes[-1:], stop_s=PAUSE_S, run_s=every_s - PAUSE_S) as pauses:
            nobody_dies(seen, seconds)
        seen.faults += pauses
        assert len(pauses) >= max(1, seconds // every_s - 1)
