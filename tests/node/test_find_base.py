from __future__ import annotations

import json
from pathlib import Path

from peermerge.node.config import NodeConfig, load
from peermerge.node.find_base import known
from peermerge.node.remember import FILE
from peermerge.node.storage import MemoryStorage
from tests.coordinator.worlds import calling, claim, coordinator
from tests.integration.daemons import free_ports


def config(**membership: object) -> NodeConfig:
    settings = {f"membership.{key}": value for key, value in membership.items()}
    return load(NodeConfig, None, {"network": "net", "run": "run", "node.name": "new", **settings})


async def test_the_base_is_asked_of_those_listed_introduced_and_remembered_but_not_of_oneself(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.write(FILE, json.dumps([["dora", "127.0.0.1:4"], ["bob", "127.0.0.1:2"]]).encode())
    async with coordinator(tmp_path) as running:
        async with calling(running.address) as caller, calling(running.address, ("net", "other")) as elsewhere:
            for number, name in enumerate(("new", "bob", "carol", "gone"), 1):
                await caller.join(claim(name, number))
            await caller.leave(claim("gone", 4))
            await elsewhere.join(claim("eve", 5))
        found = await known(config(coordinator=running.address, peers=["listed:9"]), storage)
    assert found == ["listed:9", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]


async def test_a_coordinator_that_is_away_or_knows_nobody_names_none(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        assert await known(config(coordinator=running.address), MemoryStorage()) == []
    away = config(coordinator=f"127.0.0.1:{free_ports(1)[0]}", peers=["listed:9"])
    assert await known(away, MemoryStorage()) == ["listed:9"]
