from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peermerge.node.config import NodeConfig, load, parse
from peermerge.node.storage import MemoryStorage
from peermerge.node.suggestions import FILE, Suggested, ask, keep, recall, recall_or_ask, suggested
from peermerge.protocol.errors import DataDirError
from peermerge.protocol.suggestions import write
from tests.coordinator.worlds import coordinator
from tests.integration.daemons import free_ports

OFFER: dict[str, Any] = {"topology.name": "ring", "schedule.rounds": 99, "publish.density": 0.02}


def written(offer: dict[str, Any]) -> dict[str, str]:
    return {key: write(key, value) for key, value in offer.items()}


def config(**over: Any) -> NodeConfig:
    return load(NodeConfig, None, {key.replace("__", "."): value for key, value in over.items()})


def test_what_the_user_did_not_set_is_taken() -> None:
    result = suggested(config(schedule__local_steps=3), written(OFFER))
    assert result.taken == OFFER
    assert not result.ignored
    assert (result.config.topology.name, result.config.publish.density) == ("ring", 0.02)
    assert (result.config.schedule.rounds, result.config.schedule.local_steps) == (99, 3)


def test_what_the_user_set_stays_even_where_it_is_the_default() -> None:
    mine = config(topology__name="complete", schedule__rounds=30, publish__density=0.1)
    result = suggested(mine, written(OFFER | {"schedule.every": 2}))
    assert result.taken == {"schedule.every": 2}
    assert result.config.schedule.every == 2
    assert result.config.model_copy(update={"schedule": mine.schedule}) == mine


@pytest.mark.parametrize(
    "chosen", [{"publish__bits": 1.0}, {"publish__lossless": True}, {"publish__relative_error": 0.1}]
)
def test_who_chose_another_budget_is_suggested_no_density(chosen: dict[str, Any]) -> None:
    assert suggested(config(**chosen), written({"publish.density": 0.5})).config == config(**chosen)


def test_a_topology_and_its_parameters_come_together_or_not_at_all() -> None:
    offer = written({"topology.name": "random-regular", "topology.parameters": {"degree": 4, "seed": 1}})
    taken = suggested(config(), offer).config.topology
    assert (taken.name, taken.parameters) == ("random-regular", {"degree": 4, "seed": 1})
    mine = config(topology__name="ring")
    assert suggested(mine, offer).config == mine
    assert suggested(config(), written({"topology.name": "ring", "topology.weights": "uniform"})).config.topology


@pytest.mark.parametrize(
    "offer",
    [
        {"topology.name": "nonsense"},
        {"topology.name": "ring", "topology.parameters": {"degree": 3}},
        {"topology.weights": "heavy"},
        {"schedule.rounds": -1},
        {"schedule.merge": "sometimes"},
        {"publish.density": 2.0},
    ],
)
def test_what_this_node_cannot_use_is_ignored_by_name_and_the_rest_is_taken(offer: dict[str, Any]) -> None:
    result = suggested(config(), written(offer | {"schedule.every": 2}))
    assert result.taken == {"schedule.every": 2}
    assert result.ignored == tuple(sorted(offer))


def test_nothing_but_what_may_be_suggested_is_taken() -> None:
    hostile = {
        "task.name": '"evil:factory"',
        "node.data_dir": '"/"',
        "membership.peers": '["evil:1"]',
        "__class__": "1",
        "publish.density": "NaN",
    }
    assert suggested(config(), hostile) == Suggested(config(), {}, tuple(sorted(hostile)))


async def test_a_coordinator_is_asked(tmp_path: Path) -> None:
    async with coordinator(tmp_path, written(OFFER)) as running:
        assert await ask(running.address) == written(OFFER)
        mine = config(membership__coordinator=running.address)
        assert await recall_or_ask(mine, MemoryStorage(), begun=False) == written(OFFER)
        nobody = config(membership__coordinator=running.address, membership__suggestions=False)
        assert await recall_or_ask(nobody, MemoryStorage(), begun=False) == {}
    assert await recall_or_ask(config(), MemoryStorage(), begun=False) == {}


async def test_what_is_suggested_or_ignored_is_said() -> None:
    found = suggested(config(), written({"topology.name": "ring"}) | {"task.name": "1"})
    assert found.sentences == [
        "the coordinator suggests topology.name = 'ring'",
        "the coordinator suggests something for task.name that cannot be used: ignored",
    ]
    assert suggested(config(), {}).sentences == []


async def test_a_first_start_without_the_coordinator_says_which_defaults_the_run_keeps() -> None:
    away = f"127.0.0.1:{free_ports(1)[0]}"
    assert await ask(away) is None
    mine = config(membership__coordinator=away, topology__name="ring", schedule__rounds=7)
    assert await recall_or_ask(mine, MemoryStorage(), begun=True) == {}
    found = suggested(mine, await recall_or_ask(mine, MemoryStorage(), begun=False))
    assert (found.config, found.taken) == (mine, {})
    (line,) = found.sentences
    assert away in line
    assert "schedule.local_steps = 10" in line
    assert "publish.density = 0.1" in line
    assert "later starts keep that; --fresh asks again" in line
    assert "topology.name" not in line
    assert "schedule.rounds" not in line
    settings = config(membership__coordinator=away, publish__bits=1.0).model_dump(exclude_unset=True)
    everything = settings | NodeConfig().model_dump(include={"topology", "schedule"})
    assert suggested(parse(NodeConfig, everything, "a file"), None).sentences == []


async def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    storage = MemoryStorage()
    keep(storage, written(OFFER))
    async with coordinator(tmp_path, written(OFFER | {"schedule.rounds": 7})) as running:
        mine = config(membership__coordinator=running.address)
        assert await recall_or_ask(mine, storage, begun=True) == written(OFFER)
        assert await recall_or_ask(mine, MemoryStorage(), begun=True) == {}


def test_a_damaged_file_is_named_with_the_cure() -> None:
    for damage in (b"{", b"[1]"):
        storage = MemoryStorage()
        storage.write(FILE, damage)
        with pytest.raises(DataDirError, match="--fresh"):
            recall(storage)
