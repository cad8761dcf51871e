"""Real nodes of which one hangs: it costs the others one deadline, and their later rounds nothing."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from ..integration.daemons import NodeProcess, eventually, mesh

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
CALM = 12
"""Rounds before the fault; what a round takes is told by the second half of them, when everything is warm."""
AFTER = 14
LATER = 1.25
"""How much longer than before later rounds may take."""
SLACK = 2.0
"""How much longer the first affected round may train: few processors are shared, whose load is not ours alone."""


def took(node: NodeProcess) -> dict[int, float]:
    """Return how long each round of a node took."""
    return {b["round"]: b["time"] - a["time"] for a, b in pairwise(node.events())}


@pytest.mark.slow
def test_a_node_that_hangs_holds_up_one_round_of_the_others_and_no_later_one(tmp_path: Path) -> None:
    over = {"schedule__rounds": 0, "schedule__local_steps": 20, "topology__name": "complete", "round__floor_s": 2.0}
    # Without gossip it stays a member to the end: what is shown here does not rest on its removal.
    with mesh(tmp_path, 8, membership__gossip=False, round__ceiling_s=20.0, **over) as nodes:
        for node in nodes:
            node.start()
        *others, ill = nodes
        for node in nodes:
            node.until(CALM)
        deadlines = {node.name: node.status().deadline_s for node in others}
        ill.signal(signal.SIGSTOP)
        struck = time.time()
        for node in others:
            eventually(lambda n=node: sum(e["time"] > struck for e in n.events()) > AFTER, "it goes on", 120.0)  # type: ignore[misc]
        for node in others:
            peer = next(p for p in node.status().peers if p.name == ill.name)
            assert not peer.waited_for, "it is known to hang"
            rounds, ends = took(node), {e["round"]: e["time"] for e in node.events()}
            usual = median(rounds[r] for r in rounds if CALM / 2 <= r < CALM)
            later = [rounds[r] for r in rounds if ends[r] > struck]
            first = max(range(3), key=later.__getitem__)
            slowest, rest = later[first], median(later[first + 1 :])
            said = f"usual {usual:.2f} s, deadline {deadlines[node.name]:.2f} s, first affected {slowest:.2f} s"
            print(f"{node.name}: {said}, later {rest:.2f} s (median, {rest / usual:.2f} x)")
            assert slowest <= SLACK * usual + deadlines[node.name] + 1.0
            assert rest <= LATER * usual
            assert all(ill.name not in e["merged"] for e in node.events()[-3:])
        ill.signal(signal.SIGCONT)
        for node in others:
            eventually(lambda n=node: ill.name in n.events()[-1]["merged"], "it is merged again", 120.0)  # type: ignore[misc]
