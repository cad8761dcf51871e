"""Nodes that come late or come back: they fetch the base, catch up, find the others again, and disturb nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from peermerge.node import daemon as daemons
from peermerge.node.config import NodeConfig
from peermerge.node.daemon import Daemon
from peermerge.node.membership.gossip import Gossiper
from peermerge.node.params import load_tensors

from ..integration.daemons import NodeProcess, eventually, free_ports, mesh
from ..integration.mesh import CPU, SMALL, digits_workload

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
LARGE = {"width": 32, "hidden": 176}
SLOWER = {"schedule__local_steps": 25, "membership__wait_s": 600.0}


def incoming(node: NodeProcess) -> int:
    """Return how many bytes of a base have arrived."""
    return sum(path.stat().st_size for path in (node.data / "incoming").glob("*"))


def knows(node: NodeProcess, count: int) -> bool:
    """Whether a node has so many members in its view."""
    return len(node.status().members) == count


@pytest.mark.slow
@pytest.mark.parametrize("what", ["peers", "digest"])
def test_a_newcomer_that_is_killed_while_it_fetches_the_base_goes_on_with_another_peer(
    tmp_path: Path, what: str
) -> None:
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    common = {"task.arguments": LARGE, "schedule.rounds": 1, "schedule.local_steps": 1, "node.linger_s": 0.0}
    slow = common | {"node.stay": True, "node.bandwidth_bytes_s": 150_000, "seed": 1}
    first = NodeProcess(tmp_path, "first", ports[0], slow)
    second = NodeProcess(tmp_path, "second", ports[1], slow | {"membership.peers": ports[:1], "node.base": "peers"})
    late = NodeProcess(tmp_path, "late", ports[2], common | {"membership.peers": ports[:2], "seed": 2})
    try:
        for node in (first, second):
            node.start()
            eventually(partial(node.events, "finished"), f"{node.name} serves")
        digest = second.events("base")[0]["sha256"]
        late.settings["node.base"] = "peers" if what == "peers" else f"sha256:{digest}"
        late.start()
        eventually(lambda: incoming(late), "some of the base arrives")
        late.kill()
        part = incoming(late)
        first.kill()
        base = load_tensors(first.data / "base.safetensors")
        whole = sum(tensor.nbytes for tensor in base.values() if tensor.is_floating_point())
        assert 0 < part < whole, "it was killed in the midst"
        late.start(membership__peers=ports[1:2])
        assert late.wait() == 0, late.said
        assert late.events("base")[0]["received"] < whole - part + 100_000
        fetched = load_tensors(late.data / "base.safetensors")
        assert all(torch.equal(base[name], fetched[name]) for name in base if base[name].is_floating_point())
        assert incoming(late) == 0
        assert late.events("missing") == [], "its base is the others', so they greet it"
    finally:
        for node in (first, second, late):
            node.kill()


def test_a_late_joiner_publishes_no_stale_round_and_is_merged_by_all_within_three(tmp_path: Path) -> None:
    with mesh(tmp_path, 4, schedule__rounds=0, **SLOWER) as nodes:
        *early, late = nodes
        for node in early:
            node.start(membership__expect=3)
        for node in early:
            node.until(8)
        late.start(membership__expect=2, node__start="neighbours")
        came = eventually(lambda: late.events("catch_up"), "it catches up")[0]
        assert came["from_round"] == 0
        assert came["round"] >= 7
        assert came["pulled"] == [node.name for node in early]
        last = came["round"] + 3
        eventually(lambda: late.reached(last), "it goes on")
        rounds = [event["round"] for event in late.events("published")]
        assert min(rounds) == came["round"]
        assert [len(e["merged"]) for e in late.events("merge") if e["round"] <= last][-1] == 3
        for node in early:
            node.until(last)
            assert any(late.name in event["merged"] for event in node.events() if event["round"] <= last)


@pytest.mark.parametrize("seed", [1, 2])
def test_nodes_that_are_all_killed_find_each_other_again_without_any_seed(tmp_path: Path, seed: int) -> None:
    with mesh(tmp_path, 3, schedule__rounds=0, **SLOWER) as nodes:
        for node in nodes:
            node.start()
        for node in nodes:
            node.until(3)
            eventually(partial(knows, node, 3), f"{node.name} knows all")
        for node in nodes:
            node.kill()
        before = {node.name: len(node.history()) for node in nodes}
        random.Random(seed).shuffle(nodes)
        for node in nodes:
            node.start(membership__peers=[], membership__expect=3)
        for node in nodes:

            def merges_all(node: NodeProcess = node) -> bool:
                after = node.history()[before[node.name] :]
                return any(event["event"] == "round" and len(event["merged"]) == 2 for event in after)

            eventually(merges_all, f"{node.name} merges the others again")
            assert node.events("missing") == []


def test_members_that_are_gone_keep_a_restarted_node_from_nothing(tmp_path: Path) -> None:
    with mesh(tmp_path, 3, schedule__rounds=0, **SLOWER) as nodes:
        for node in nodes:
            node.start()
        for node in nodes:
            node.until(2)
        for node in nodes:
            node.kill()
        left = nodes[1]
        last = left.events()[-1]["round"]
        left.start(membership__peers=[], membership__expect=1)
        left.until(last + 3, starts=2)
        assert left.events("missing") == []


@pytest.mark.slow
def test_those_who_finish_first_do_not_disturb_the_last_round_of_the_others(tmp_path: Path) -> None:
    patient = {"round__floor_s": 20.0, "round__ceiling_s": 20.0, "node__linger_s": 20.0}
    over = {"schedule__rounds": 4, "schedule__local_steps": 20, "topology__name": "ring"}
    with mesh(tmp_path, 5, **over, **patient) as nodes:
        slow = SMALL | {"batch": 1400}
        for node in nodes:
            node.start(**({"task__arguments": slow} if node is nodes[2] else {}))
        assert [node.wait() for node in nodes] == [0] * 5
        for node in nodes:
            last = node.events("merge")[-1]
            assert last["round"] == 3
            assert last["skipped"] == {}
            assert len(last["merged"]) == 2
        ends = {node.name: node.events("finished")[0]["time"] for node in nodes}
        begins = nodes[2].events("published")[-1]["time"]
        assert min(ends.values()) < begins, "somebody had finished while the slow one was still training"


BACKGROUND: dict[str, tuple[Any, str]] = {
    "gossip": (Gossiper, "run"),
    "greeting": (daemons, "keep_greeting"),
    "members": (daemons, "keep_members"),
    "name": (daemons, "_stay_unique"),
}


@pytest.mark.parametrize("task", BACKGROUND)
def test_a_background_task_that_dies_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    fired = []

    async def dies(*_: object) -> None:
        await asyncio.sleep(0.2)
        fired.append(task)
        raise RuntimeError("the hook")

    monkeypatch.setattr(*BACKGROUND[task], dies)
    data = {"node": {"data_dir": str(tmp_path)}, "schedule": {"rounds": 0}, "task": {"arguments": SMALL}}
    config = NodeConfig.model_validate(data)
    node = Daemon(config, lambda: digits_workload(config))

    async def program(steps: Callable[[], Awaitable[None]]) -> None:
        try:
            await node.begin(CPU)
            await asyncio.wait_for(steps(), 60)
        finally:
            await node.end()

    with pytest.raises(RuntimeError, match="the hook"):
        asyncio.run(program(node.run))
    assert fired == [task]
