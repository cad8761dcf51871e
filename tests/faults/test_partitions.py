"""A mesh that is cut in two goes on in both halves and becomes one again; a one-way cut does not make views flap."""

from __future__ import annotations

import json
import statistics
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pytest
import torch

from peermerge.node.log_entry import Entry
from peermerge.node.state import State, values
from peermerge.node.storage import DiskStorage
from peermerge.protocol.codec import Frame
from peermerge.protocol.limits import MIN_EXPONENT
from peermerge.protocol.manifest import manifest_of

from ..integration.daemons import end, eventually
from .lab import lab, needs_lab
from .processes import Diary, Line, agreed, mesh_over, watched

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300), needs_lab]
KEEP_ALL = 1 << 20
WARM = 60
"""Rounds of training before the cut: until then the nodes draw together by learning alone."""
BEFORE_S = 4.0
GOES_ON_S = 2.0
HEALED_S = 10.0
ROUNDS = 5
DELAY_S = 0.1
"""Of the links: rounds take longer than catching up with the other half's takes on a busy machine."""
RATIO = 1.2
LONG_S = 30.0


class Published:
    """What a node has published and when, read from its data directory."""

    def __init__(self, diary: Diary) -> None:
        self._times = [event["time"] for event in diary.entries("published")]
        tensors = json.loads((diary.node.data / "manifest.json").read_text())["tensors"]
        manifest = manifest_of((name, tuple(shape), dtype, full) for name, shape, dtype, full in tensors)
        state = State(manifest, np.full(len(manifest.tensors), MIN_EXPONENT, np.int8))
        storage = DiskStorage(diary.node.data, lock=False)
        self._states = [values(state)]
        for name in sorted(name for name in storage.names("log") if name.endswith(".delta")):
            file = storage.open(name)
            assert file is not None
            state.apply(state.prepare(Frame.open(Entry.open(file).frame, manifest)))
            self._states.append(values(state))
        assert len(self._states) > len(self._times)

    def at(self, moment: float) -> torch.Tensor:
        """Return the state that was the newest at a wall time."""
        return self._states[bisect_right(self._times, moment)]


def merged_together(sides: Sequence[Sequence[Diary]], since: float) -> list[list[Line]]:
    """Return each node's merges from its first with the other half on, once they are enough.

    Before that it catches up with what the other half published meanwhile, and no round waits for that.
    """
    found = []
    for side, other in (sides, sides[::-1]):
        names = {diary.name for diary in other}
        for diary in side:
            apart = partial(_apart, names)
            found.append(list(dropwhile(apart, diary.entries("merge", since))))
    return found if all(len(merges) > ROUNDS for merges in found) else []


def _apart(names: set[str], merge: Line) -> bool:
    return names.isdisjoint(peer for peer, *_ in merge["merged"])


def distance(halves: Sequence[Sequence[Published]], moment: float) -> float:
    """Return how far the mean states of two halves were from each other at a wall time."""
    one, other = (torch.stack([each.at(moment) for each in half]).mean(0) for half in halves)
    return float((one - other).norm())


@pytest.mark.slow
@pytest.mark.parametrize(("half", "cut_s"), [(2, 8.0), (4, 30.0)])
def test_both_halves_go_on_and_become_one_again(tmp_path: Path, half: int, cut_s: float) -> None:
    enough = cut_s >= LONG_S  # else the halves hardly learn anything that the other does not
    settings = {"schedule__rounds": 0, "schedule__local_steps": 10, "log__retention": KEEP_ALL}
    with lab(2 * half) as net, mesh_over(net, tmp_path, **settings) as nodes, watched(tmp_path, nodes) as seen:
        seen.start()
        seen.settle(WARM)
        net.shape(delay_s=DELAY_S)
        sides = seen.diaries[:half], seen.diaries[half:]
        until(time.time() + BEFORE_S)
        with seen.harm("cut", *nodes) as cut:
            net.cut(range(half), range(half, 2 * half))
            eventually(lambda: all(agreed(side) for side in sides), "each half holds a view of its own")
            parted = time.time()
            until(max(cut + cut_s, parted + GOES_ON_S))
            healed = time.time()
            net.heal()
        assert net.counters().cut > 0
        eventually(lambda: agreed(seen.diaries), "all hold one view again")
        whole = max(diary.entries("view")[-1]["time"] for diary in seen.diaries)
        together = eventually(lambda: merged_together(sides, whole), "both halves merge with each other")
        during = {d.name: sum(e["time"] < healed for e in d.entries("round", parted)) for d in seen.diaries}
        after = max(merges[ROUNDS]["time"] for merges in together)
        end(nodes)
        halves = [[Published(diary) for diary in side] for side in sides]
    before = statistics.median(distance(halves, cut - BEFORE_S * k / 40) for k in range(40))
    apart, then = distance(halves, healed), distance(halves, after)
    print(f"\n{half}|{half} cut for {healed - cut:.1f} s: halves after {parted - cut:.1f} s, {during} rounds")
    print(f"healed: one view after {whole - healed:.1f} s, five rounds together after {after - healed:.1f} s")
    print(f"distance {before:.3g} before, {apart:.3g} at the end of the cut, {then:.3g} after")
    assert min(during.values()) > 0
    assert whole - healed <= HEALED_S
    assert then <= (RATIO * before if enough else apart)


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "cut_s"), [(4, 30.0), (8, 120.0)])
def test_a_one_way_cut_changes_views_at_most_twice_a_minute(tmp_path: Path, hosts: int, cut_s: float) -> None:
    with lab(hosts) as net, mesh_over(net, tmp_path, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        seen.start()
        with seen.harm("cut", *nodes[:2]) as since:
            net.cut([0], [1], one_way=True)
            until(since + cut_s)
        changes = Counter((d.name, e["name"]) for d in seen.diaries for e in d.entries("view", since))
        rounds = [len(diary.entries("round", since)) for diary in seen.diaries]
        suspicions = sum(len(diary.entries("suspect", since)) for diary in seen.diaries)
        assert net.counters([(0, 1)]).cut > 0
        print(f"\ncut one way for {cut_s} s: view changes {dict(changes)}, {suspicions} suspicions, rounds {rounds}")
        assert max(changes.values(), default=0) <= 2 * max(1.0, cut_s / 60)
        assert all(rounds)


def until(moment: float) -> None:
    """Let the nodes go on until a wall time."""
    time.sleep(max(0.0, moment - time.time()))
