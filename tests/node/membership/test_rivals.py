"""Of two processes with one name one stops, and nobody else does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from peermerge.node.config import MembershipConfig
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import ConfigError, TransportError

from .meshes import Host, mesh, names, said


@pytest.mark.parametrize(("first", "second", "stops"), [(1, 2, 0), (2, 1, 1), (1, 1, 1)])
def test_of_two_processes_with_one_name_one_stops_with_an_error(first: int, second: int, stops: int) -> None:
    async def program() -> None:
        async with mesh(4) as opened:
            settings = MembershipConfig()
            places = ("twin-b", "twin-a")
            twins = [
                Host("twin", opened.network, settings, incarnation=incarnation, address=place)
                for place, incarnation in zip(places, (first, second), strict=True)
            ]
            for twin, greeted in zip(twins, opened.hosts, strict=False):
                await twin.start()
                await twin.greet(greeted.address)
                await asyncio.sleep(1)
            loser, winner = twins[stops], twins[1 - stops]
            assert loser.task is not None
            assert winner.task is not None
            await asyncio.wait([loser.task], timeout=20)
            with pytest.raises(ConfigError, match=f"DUPLICATE_ID: {winner.address} .* node.name"):
                loser.task.result()
            assert loser.roster.rival == winner.roster.original
            await loser.door.close()
            opened.hosts.append(winner)
            async with asyncio.timeout(30):
                while {host.roster.view().address("twin") for host in opened.hosts} != {winner.address}:
                    await asyncio.sleep(0.1)
            assert not winner.task.done()

    run_virtual(program())


def test_what_is_left_of_an_earlier_life_elsewhere_is_no_rival() -> None:
    async def program() -> None:
        async with mesh(4) as opened:
            moved = opened[2]
            for host in opened.hosts:
                host.roster.learn([replace(moved.roster.me, address="old:1", incarnation=5)])
            await opened.until(names(opened.hosts), opened.hosts, limit_s=10)
            await asyncio.sleep(30)
            assert moved.roster.rival is None
            assert {host.roster.view().address(moved.name) for host in opened.hosts} == {moved.address}

    run_virtual(program())


def test_who_reaches_itself_by_another_address_is_not_its_own_rival() -> None:
    async def program() -> None:
        async with mesh(2) as opened:
            with pytest.raises(TransportError):
                await opened[0].gossiper.answer(said(opened[0]))
            await asyncio.sleep(5)
            assert opened[0].roster.rival is None

    run_virtual(program())
