"""What is told fits and is not told too often; what is heard from strangers, liars and the dead does no harm."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from peermerge.node.config import MembershipConfig
from peermerge.node.membership.exchange import ALL_S
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import EnvelopeError, PeerError, Refusal
from peermerge.protocol.limits import MAX_HEADER_BYTES, MAX_MEMBERS
from peermerge.protocol.members import Gossip, Member, MemberState
from peermerge.protocol.memory_transport import MemoryNetwork

from .meshes import NETWORK, RUN, Host, mesh, said


async def answered(host: Host, message: bytes) -> Gossip:
    """Let a host answer a message."""
    return Gossip.decode(await host.gossiper.answer(message))


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (Gossip(network="other", run=RUN, name="n0001"), Refusal.NETWORK_MISMATCH),
        (Gossip(network=NETWORK, run="other", name="n0001"), Refusal.NETWORK_MISMATCH),
        (Gossip(network=NETWORK, run=RUN, name="nobody"), Refusal.UNKNOWN_SENDER),
        (Gossip(network=NETWORK, run=RUN, name="n0001", target="nobody"), Refusal.TRANSPORT),
        (Gossip(network=NETWORK, run=RUN, name="n0001", target="n0000"), Refusal.TRANSPORT),
    ],
)
def test_what_it_cannot_answer_is_refused_by_name(message: Gossip, refusal: Refusal) -> None:
    async def program() -> None:
        async with mesh(2) as opened:
            with pytest.raises(PeerError) as refused:
                await opened[0].gossiper.answer(message.encode())
            assert refused.value.refusal is refusal

    run_virtual(program())


def test_forged_deaths_are_denied_and_do_no_lasting_harm() -> None:
    async def program() -> None:
        async with mesh(8) as opened:
            liar, victims = opened[7], opened.hosts[1:7]
            forged = [replace(host.roster.me, state=MemberState.DEAD) for host in victims]
            for _ in range(3):
                await answered(opened[0], said(liar, *forged))
            assert not opened.changes
            await asyncio.sleep(30)
            assert not opened.changes
            assert all(host.roster.me.refuted for host in victims)

    run_virtual(program())


def test_who_is_held_for_dead_is_not_believed_about_others() -> None:
    async def program() -> None:
        async with mesh(4) as opened:
            opened[0].roster.judge(opened[3].name, MemberState.DEAD)
            suspect = replace(opened[1].roster.me, state=MemberState.SUSPECT)
            reply = await answered(opened[0], said(opened[3], suspect))
            assert opened[0].roster.get(opened[1].name) == opened[1].roster.me
            assert replace(opened[3].roster.me, state=MemberState.DEAD) in reply.news

    run_virtual(program())


def test_a_full_exchange_of_as_many_as_there_may_be_fits_and_tells_all_in_the_end() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        host, asker = (Host(name, network, MembershipConfig()) for name in ("host", "asker"))
        host.roster.learn(asker.roster.view().members)
        host.roster.learn(Member(f"{i:063d}", f"{i:0250d}:1") for i in range(MAX_MEMBERS))
        heard: set[str] = set()
        for _ in range(60):
            if len(heard) == MAX_MEMBERS:
                break
            await asyncio.sleep(ALL_S)
            reply = await host.gossiper.answer(said(asker, all=True))
            assert MAX_HEADER_BYTES // 2 < len(reply) <= MAX_HEADER_BYTES
            heard |= {member.name for member in Gossip.decode(reply).news}
        assert len(heard) == MAX_MEMBERS

    run_virtual(program())


def test_everything_is_told_so_often_at_most() -> None:
    async def program() -> list[bool]:
        async with mesh(20) as opened:
            replies = [await answered(opened[0], said(opened[1], all=True)) for _ in range(3)]
            await asyncio.sleep(ALL_S)
            replies.append(await answered(opened[0], said(opened[1], all=True)))
            return [len(reply.news) == 20 for reply in replies]

    assert run_virtual(program()) == [True, False, False, True]


def test_another_run_at_the_address_of_a_member_does_not_keep_it_alive() -> None:
    async def program() -> None:
        async with mesh(4) as opened:
            lost = opened[3]
            lost.kill()
            opened.network.revive(lost.address)

            class Stranger(Host):
                async def gossip(self, request: bytes) -> bytes:
                    self.answered += 1
                    raise EnvelopeError(Refusal.NETWORK_MISMATCH, "another run")

            stranger = Stranger("stranger", opened.network, MembershipConfig(), address=lost.address)
            await stranger.door.serve(stranger)
            await opened.gone(lost, limit_s=10)
            assert stranger.answered > 0

    run_virtual(program())
