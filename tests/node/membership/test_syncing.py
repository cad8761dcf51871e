"""Members who know different things come to know the same, and the dead are not kept for ever."""

from __future__ import annotations

import asyncio

import pytest

from peermerge.node.config import MembershipConfig
from peermerge.node.membership import Roster
from peermerge.node.membership.syncing import FORGET_S
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.members import Member

from .meshes import addresses, mesh, names


@pytest.mark.parametrize("half", [1, 4])
def test_after_a_partition_all_views_are_full_and_equal_again(half: int) -> None:
    async def program() -> float:
        async with mesh(8, seed=half) as opened:
            one, other = opened.hosts[:half], opened.hosts[half:]
            opened.network.cut(addresses(one), addresses(other))
            await asyncio.gather(opened.until(names(one), one, 90), opened.until(names(other), other, 90))
            opened.network.heal()
            took = await opened.until(names(opened.hosts), opened.hosts, limit_s=10)
            changes = len(opened.changes)
            await asyncio.sleep(60)
            assert len(opened.changes) == changes == 2 * 2 * half * (8 - half)
            assert len({host.roster.digest for host in opened.hosts}) == 1
            return took

    assert run_virtual(program()) <= 10


def test_the_dead_are_forgotten_in_the_end() -> None:
    async def program() -> Roster:
        async with mesh(2, settings=MembershipConfig(probe_s=60.0, sync_s=60.0)) as opened:
            opened[1].kill()
            await opened.gone(opened[1], limit_s=2000)
            await asyncio.sleep(FORGET_S + 120)
            return opened[0].roster

    assert run_virtual(program()).everybody() == (Member("n0000", "n0000", 1),)
