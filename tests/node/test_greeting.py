"""Meeting the others: all at once, with nobody waited for who is only remembered, and one process to a name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peermerge.node.config import NodeConfig
from peermerge.node.greeting import HELLO_S, greet_all, keep_greeting
from peermerge.node.membership import Roster
from peermerge.node.participant import Participant
from peermerge.node.remember import FILE, keep_members, remembered
from peermerge.node.simulation.nodes import node_config
from peermerge.node.storage import DiskStorage, MemoryStorage
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import ConfigError
from peermerge.protocol.members import Member, MemberState
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport
from tests.integration.mesh import participant, simulated

CONFIG = simulated(simulation__nodes=3)


def described(index: int, peers: tuple[str, ...] = (), name: str = "", expect: int = 0) -> NodeConfig:
    data = node_config(CONFIG, index).model_dump()
    data["node"]["name"] = name or data["node"]["name"]
    data["membership"] |= {"peers": peers, "expect": expect, "wait_s": 60.0}
    return NodeConfig.model_validate(data)


class At:
    """A network that gives every node the address it asks for, whatever its name."""

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self._network, self._address = network, address

    def transport(self, _name: str) -> MemoryTransport:
        return self._network.transport(self._address)


@asynccontextmanager
async def nodes(network: MemoryNetwork, *configs: NodeConfig) -> AsyncIterator[list[Participant]]:
    """Open nodes; each one's address is its name."""
    found = [participant(config, network) for config in configs]
    for node in found:
        await node.open()
    try:
        yield found
    finally:
        for node in found:
            await node.close()


async def opened_at(network: MemoryNetwork, address: str, config: NodeConfig, incarnation: int = 1) -> Participant:
    node = participant(config, At(network, address), incarnation=incarnation)  # type: ignore[arg-type]
    await node.open()
    return node


def test_dead_addresses_are_greeted_all_at_once() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        silent = [f"silent-{i}" for i in range(10)]
        for name in silent:
            await network.transport(name).serve(None)  # type: ignore[arg-type]
            network.cut(["n0000"], [name])
        async with nodes(network, described(0), described(1, ("n0000",))) as (one, two):
            known = tuple(Member(name, name) for name in silent)
            asked = one.clock.now()
            assert await greet_all(two) == []
            assert await greet_all(one, known) == []
            assert HELLO_S * 0.9 < one.clock.now() - asked < 2 * HELLO_S, "they were asked, and together"
            assert one.membership.view().names == ("n0000", "n0001")

    run_virtual(program())


def test_those_remembered_are_met_without_any_seed() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        async with nodes(network, described(0), described(1), described(2)) as (one, two, three):
            known = (Member("n0001", "n0001"), Member("n0002", "n0002"), Member("gone", "gone"))
            started = one.clock.now()
            assert await greet_all(one, known) == []
            assert one.clock.now() - started < 1.0
            assert one.membership.view().names == ("n0000", "n0001", "n0002")
            assert two.membership.get("n0000") is not None
            assert await greet_all(three, (known[0],)) == []
            assert three.membership.view().names == ("n0000", "n0001", "n0002")

    run_virtual(program())


def test_those_remembered_who_were_out_of_reach_are_tried_again() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        async with nodes(network, described(0), described(1)) as (one, two):
            network.cut(["n0000"], ["n0001"])
            known = (Member("n0001", "n0001"),)
            assert await greet_all(one, known) == []
            assert one.membership.get("n0001") is None
            network.heal()
            again = asyncio.create_task(keep_greeting(one, known))
            await asyncio.sleep(40)
            assert one.membership.get("n0001") is not None
            assert two.membership.get("n0000") is not None
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

    run_virtual(program())


def test_configured_peers_are_still_waited_for() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        async with nodes(network, described(0, ("absent",))) as (one,):
            assert await greet_all(one) == ["absent"]
            assert one.clock.now() >= 60.0

    run_virtual(program())


@pytest.mark.parametrize("incarnations", [(1, 1), (5, 1), (1, 5)], ids=str)
def test_a_name_that_somebody_else_answers_to_is_refused_with_both_addresses(incarnations: tuple[int, int]) -> None:
    async def program() -> None:
        network = MemoryNetwork()
        first, second = incarnations
        async with nodes(network, described(0)) as (seed,):
            rival = await opened_at(network, "there", described(1, ("n0000",), "twin"), first)
            assert await greet_all(rival) == []
            late = await opened_at(network, "here", described(2, ("n0000",), "twin"), second)
            with pytest.raises(ConfigError, match=r"DUPLICATE_ID.*at there.*at here.*node\.name"):
                await greet_all(late)
            assert seed.membership.get("twin") is not None
            for node in (rival, late):
                await node.close()

    run_virtual(program())


def test_a_claim_about_an_earlier_process_of_ours_counts_for_nothing() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        async with nodes(network, described(0)) as (seed,):
            before = await opened_at(network, "old", described(1, ("n0000",), "mover"))
            assert await greet_all(before) == []
            await before.close()
            network.kill("old")
            after = await opened_at(network, "new", described(1, ("n0000",), "mover"), 2)
            assert await greet_all(after) == []
            claim = seed.membership.get("mover")
            assert claim is not None
            assert claim.address == "new"
            await after.close()

    run_virtual(program())


def test_our_own_address_among_the_peers_is_no_rival() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        async with nodes(network, described(0)) as (seed,):
            alias = _Alias(network.transport("me"), {"also-me": "me"})
            config = described(1, ("also-me", "n0000"), "me", expect=2)
            node = participant(config, _Fixed(alias))  # type: ignore[arg-type]
            await node.open()
            assert await greet_all(node) == []
            assert node.membership.view().names == ("me", "n0000")
            assert seed.membership.get("me") is not None
            await node.close()

    run_virtual(program())


class _Alias:
    """A transport that knows some addresses under another name as well."""

    def __init__(self, inner: MemoryTransport, names: dict[str, str]) -> None:
        self._inner, self._names = inner, names

    async def hello(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        return await self._inner.hello(self._names.get(address, address), request, timeout_s=timeout_s)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class _Fixed:
    """A network that hands out one transport."""

    def __init__(self, transport: _Alias) -> None:
        self._transport = transport

    def transport(self, _name: str) -> _Alias:
        return self._transport


def test_who_is_known_is_kept_in_the_data_directory(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    roster = Roster(Member("me", "here:1", 1))

    async def until(count: int) -> None:
        while len(remembered(storage)) != count:
            await asyncio.sleep(0.01)

    async def program() -> None:
        keeping = asyncio.create_task(keep_members(roster, storage))
        roster.learn([Member("a", "there:1", 3), Member("b", "there:2", 1)], first_hand=True)
        await asyncio.wait_for(until(2), 30)
        roster.judge("a", MemberState.DEAD)
        roster.learn([Member("c", "there:3", 1)])
        await asyncio.wait_for(until(3), 30)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(program())
    assert [(m.name, m.address) for m in remembered(storage)] == [("a", "there:1"), ("b", "there:2"), ("c", "there:3")]
    storage.close()


def test_who_meets_nobody_forgets_nobody() -> None:
    storage = MemoryStorage()
    before = json.dumps([["a", "there:1"]]).encode()
    storage.write(FILE, before)
    roster = Roster(Member("me", "pending", 2))

    async def program() -> None:
        keeping = asyncio.create_task(keep_members(roster, storage))
        await asyncio.sleep(1)
        roster.moved("here:1")
        await asyncio.sleep(1)
        assert not keeping.done()
        keeping.cancel()

    run_virtual(program())
    assert storage.read(FILE) == before


@pytest.mark.parametrize(
    "data", [b"{", b"{}", b"[1]", b'[["a"]]', b'[["No Name!", "x:1"]]', b'[["a", 7]]', b"\xff", b"7"]
)
def test_a_damaged_list_of_members_is_as_none(data: bytes) -> None:
    storage = MemoryStorage()
    assert remembered(storage) == ()
    storage.write(FILE, data)
    assert remembered(storage) == ()
