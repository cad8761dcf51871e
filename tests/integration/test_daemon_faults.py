"""Nodes as processes that are killed, stopped, resumed, damaged and set back."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from peermerge.node.config import NodeConfig
from peermerge.node.daemon import Daemon
from peermerge.node.storage import DiskStorage
from peermerge.node.workload import Workload

from .daemons import NodeProcess, eventually, mesh, refused

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SLOWER = {"schedule__local_steps": 25}
"""Rounds long enough for a node to be killed and started again in the midst of them."""


def peer_of(node: NodeProcess, name: str) -> tuple[int, int]:
    """Return the log epoch and version that a node holds of a peer."""
    peer = next(p for p in node.status().peers if p.name == name)
    return peer.epoch, peer.version


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_node_comes_back_and_the_others_miss_nothing(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    with mesh(tmp_path, 4, schedule__rounds=24, **SLOWER) as nodes:
        for node in nodes:
            node.start()
        victim = nodes[draw.randrange(1, 4)]
        victim.until(draw.randrange(2, 6))
        victim.kill()
        before = victim.events()
        survivors = [node for node in nodes if node is not victim]
        for node in survivors:
            node.until(before[-1]["round"] + 2)
        victim.start()
        assert [node.wait() for node in nodes] == [0] * 4
        for node in survivors:
            assert [event["round"] for event in node.events()] == list(range(24))
            assert victim.name in node.events()[-1]["merged"], "it is merged again at the end"
            assert set(node.result["skipped"][victim.name]) <= {"DEADLINE", "TRANSPORT", "UNKNOWN_SENDER", "REPLAYED"}
        assert [event["incarnation"] for event in victim.events("start")] == [1, 2]
        after = victim.events()[len(before) :]
        assert after[0]["round"] > before[-1]["round"]
        assert after[0]["version"] > before[-1]["version"] or after[0]["epoch"] > before[-1]["epoch"]
        assert after[-1]["round"] == 23
        assert len(after[-1]["merged"]) == 3


def test_a_killed_node_loses_no_published_progress(tmp_path: Path) -> None:
    over = {"schedule__rounds": 0, "log__checkpoint_every": 0, "publish__lossless": True, "schedule__local_steps": 10}
    with mesh(tmp_path, 1, **over) as (node,):
        node.start().until(12)
        node.kill()
        before = node.events()[-1]
        node.start()
        again = eventually(lambda: [e for e in node.events() if e["round"] > before["round"]], "it goes on")
        assert again[0]["metrics"]["loss"] < before["metrics"]["loss"] * 1.5
        assert again[0]["epoch"] == 1


def test_sigterm_saves_and_a_resumed_run_finishes(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=25, log__checkpoint_every=0, **SLOWER) as nodes:
        for node in nodes:
            node.start()
        nodes[1].until(2)
        asked = time.monotonic()
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.wait() for node in nodes] == [0, 0]
        assert time.monotonic() - asked < 15
        stopped = [node.result["finished_rounds"] for node in nodes]
        for node, rounds in zip(nodes, stopped, strict=True):
            assert 2 <= rounds < 25
            assert len(list((node.data / "checkpoints").iterdir())) == 1
            node.start("--resume")
        assert [node.wait() for node in nodes] == [0, 0]
        for node in nodes:
            rounds = [event["round"] for event in node.events()]
            assert sorted(set(rounds)) == list(range(25)), "no round is lost"
            assert len(rounds) <= 26, "at most the round under way is run again"
            assert node.result["warnings"] == []


def test_a_stop_ends_the_wait_for_a_neighbour_and_finishes_the_round(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0, round__floor_s=60.0, round__ceiling_s=60.0) as nodes:
        for node in nodes:
            node.start()
        nodes[0].until(1)
        nodes[1].signal(signal.SIGSTOP)
        eventually(lambda: nodes[0].status().phase == "gathering", "it waits for the frozen one")
        asked = time.monotonic()
        nodes[0].signal(signal.SIGTERM)
        assert nodes[0].wait() == 0
        assert time.monotonic() - asked < 30
        rounds = [event["round"] for event in nodes[0].events()]
        assert rounds == list(range(nodes[0].result["finished_rounds"])), "the published round is merged and noted"
        nodes[1].signal(signal.SIGCONT)


def test_sigint_ends_a_node_that_waits_for_its_peers(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "lonely", "127.0.0.1:0", {"membership.expect": 2, "membership.wait_s": 600.0})
    try:
        node.start()
        eventually(lambda: node.events("start"), "it waits")
        node.signal(signal.SIGINT)
        assert node.wait() == 0
    finally:
        node.kill()


def test_a_finished_run_can_be_prolonged_renewed_and_not_changed(tmp_path: Path) -> None:
    with mesh(tmp_path, 1, schedule__rounds=2) as (node,):
        assert node.start().wait() == 0
        assert node.start(schedule__rounds=4).wait() == 0
        assert [event["round"] for event in node.events()] == [0, 1, 2, 3]

        assert node.start(schedule__local_steps=3).wait() == 2
        assert "schedule.local_steps" in node.said
        assert node.start(publish__density=0.5).wait() == 2
        assert "publish.density" in node.said

        assert node.start("--fresh", schedule__local_steps=3).wait() == 0
        rounds = node.events()
        assert [event["round"] for event in rounds[4:]] == [0, 1]
        assert [event["version"] for event in rounds[4:]] == [1, 2]
        assert [event["incarnation"] for event in node.events("start")] == [1, 2, 3]


def test_a_fresh_start_removes_all_that_peers_could_be_served(tmp_path: Path) -> None:
    config = NodeConfig.model_validate({"node": {"data_dir": str(tmp_path)}})
    storage = DiskStorage(tmp_path)
    storage.write("config.json", config.model_dump_json().encode())
    for folder in ("log", "replicas", "checkpoints", "statistics"):
        storage.write(f"{folder}/old", b"old")
    storage.close()

    def unused() -> Workload:
        raise NotImplementedError

    asyncio.run(Daemon(config, unused, "fresh").end())
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "new", "127.0.0.1:0", {})
    try:
        assert node.start("--resume").wait() == 3
        assert "nothing to resume" in node.said
    finally:
        node.kill()


def test_an_old_backup_opens_a_new_log_epoch_and_peers_follow(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0) as (stable, other):
        stable.start()
        other.start().until(2)
        assert other.stop() == 0
        backup = tmp_path / "backup"
        shutil.copytree(other.data, backup)
        last = other.events()[-1]["version"]
        other.start()
        eventually(lambda: peer_of(stable, other.name)[1] > last + 1, "the peer holds what the backup does not know")
        assert other.stop() == 0
        epoch, version = peer_of(stable, other.name)
        assert epoch == 1
        shutil.rmtree(other.data)
        shutil.copytree(backup, other.data)
        other.start()
        eventually(lambda: other.events("log_epoch"), "it opens a new log epoch")
        eventually(lambda: peer_of(stable, other.name)[0] == 2, "the peer follows the new epoch")
        merged = len(stable.events())
        eventually(lambda: any(e["merged"] for e in stable.events()[merged:]), "the peer merges it again")
        assert version > 0
        assert stable.status().warnings == []


def test_a_fresh_start_of_one_node_is_followed_by_its_peers(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0) as (stable, other):
        stable.start()
        other.start().until(3)
        assert other.stop() == 0
        other.start("--fresh")
        eventually(lambda: peer_of(stable, other.name)[0] == 2, "the peer follows the new epoch")
        merged = len(stable.events())
        eventually(lambda: any(e["merged"] for e in stable.events()[merged:]), "the peer merges it again")


def test_a_node_returns_at_another_address(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0) as (stable, other):
        stable.start()
        other.start().until(1)
        other.kill()
        rounds = len(other.events())
        other.start(node__listen="127.0.0.1:0")
        eventually(lambda: any(e["merged"] for e in other.events()[rounds:]), "it merges again")
        address = (other.data / "address").read_text()
        assert address != other.address
        assert next(p.address for p in stable.status().peers) == address


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    with mesh(tmp_path, 1, schedule__rounds=4) as (node,):
        assert node.start().wait() == 0
        newest = max((node.data / "checkpoints").iterdir())
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        assert node.start(schedule__rounds=6).wait() == 0
        assert any(newest.name in warning for warning in node.result["warnings"])
        assert node.events()[-1]["round"] == 5


def test_a_torn_log_is_cut_where_it_is_whole_and_peers_follow(tmp_path: Path) -> None:
    with mesh(tmp_path, 2, schedule__rounds=0) as (stable, other):
        stable.start()
        other.start().until(4)
        other.kill()
        newest = max((other.data / "log").glob("*.delta"))
        newest.write_bytes(newest.read_bytes()[:-5])
        rounds = len(other.events())
        other.start()
        eventually(lambda: any(e["merged"] for e in other.events()[rounds:]), "it merges again")
        merged = len(stable.events())
        eventually(lambda: any(e["merged"] for e in stable.events()[merged:]), "the peer merges it again")
        assert any(newest.name in warning for warning in other.status().warnings)


def test_a_damaged_configuration_is_a_data_directory_error(tmp_path: Path) -> None:
    with mesh(tmp_path, 1, schedule__rounds=1) as (node,):
        assert node.start().wait() == 0
        (node.data / "config.json").write_text("{")
        assert node.start().wait() == 3
        assert "--fresh" in node.said
        assert node.start("--fresh").wait() == 0


def test_going_on_without_a_peer_that_never_comes_is_said(tmp_path: Path) -> None:
    absent = "127.0.0.1:1"
    over = {"membership__peers": [absent], "membership__wait_s": 1.0, "schedule__rounds": 1, "node__linger_s": 0.0}
    code, _ = refused(tmp_path, **over)
    assert code == 0
    result = json.loads((tmp_path / "refused" / "result.json").read_text())
    assert any(absent in warning for warning in result["warnings"])


def test_diverging_weights_end_the_run_with_its_own_code(tmp_path: Path) -> None:
    wild = {"width": 4, "hidden": 8, "lr": 1e30}
    code, said = refused(tmp_path, task__arguments=wild, schedule__rounds=3, schedule__local_steps=20)
    assert code == 5
    assert "not finite" in said
