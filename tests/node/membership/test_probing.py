"""Everybody is asked in turn, and for others only so many at once."""

from __future__ import annotations

import asyncio

from peermerge.node.config import MembershipConfig
from peermerge.node.membership.probing import MAX_RELAYS
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import PeerError, Refusal

from .meshes import Host, mesh, said


def test_a_newcomer_is_asked_within_the_turn_under_way() -> None:
    async def program() -> int:
        async with mesh(64) as opened:
            newcomer = Host("newcomer", opened.network, MembershipConfig())
            opened.hosts.append(newcomer)
            await newcomer.start()
            await newcomer.greet(opened[0].address)
            await asyncio.sleep(30)
            return newcomer.answered

    assert run_virtual(program()) > 10


def test_so_many_are_asked_for_others_at_once_and_the_rest_are_refused() -> None:
    async def program() -> list[Refusal]:
        async with mesh(3) as opened:
            host, asker, silent = opened.hosts
            silent.running.clear()
            message = said(asker, target=silent.name)
            answers = [host.gossiper.answer(message) for _ in range(MAX_RELAYS + 3)]
            errors = await asyncio.gather(*answers, return_exceptions=True)
            silent.running.set()
            return [error.refusal for error in errors if isinstance(error, PeerError)]

    refusals = run_virtual(program())
    assert refusals.count(Refusal.RATE_LIMITED) == 3
    assert refusals.count(Refusal.TRANSPORT) == MAX_RELAYS
