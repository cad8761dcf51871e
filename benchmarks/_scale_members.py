"""Members without models: how long until all know of a newcomer, and of a death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

from peermerge.node.config import MembershipConfig
from peermerge.node.gather import Identity
from peermerge.node.membership import Roster
from peermerge.node.membership.gossip import Gossiper
from peermerge.node.peers import Peers
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import Refusal, TransportError
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.members import Member
from peermerge.protocol.memory_transport import MemoryNetwork

MANIFEST = manifest_of([("weight", (1,), "float32", True)])
POLL_S = 0.1
QUIET_S = 20.0
LIMIT_S = 120.0


class Mate:
    """A member that gossips and does nothing else."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        me = Identity("net", "run", name, 1, bytes(32), MANIFEST)
        self.roster = Roster(Member(name, name, 1))
        self.transport = network.transport(name)
        self.gossiper = Gossiper(
            me, self.roster, self.transport, VirtualClock(), Peers(), MembershipConfig(), Random(name)
        )

    async def hello(self, request: bytes) -> bytes:
        """Refuse."""
        raise TransportError(Refusal.TRANSPORT, "I only gossip")

    async def gossip(self, request: bytes) -> bytes:
        """Answer gossip."""
        return await self.gossiper.answer(request)

    def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Refuse."""
        raise TransportError(Refusal.TRANSPORT, "I only gossip")


def spread(nodes: int) -> dict[str, float]:
    """Return the virtual seconds that a join and a death take to be known to all, and what quiet gossip sends."""
    return run_virtual(_spread(nodes))


async def _spread(nodes: int) -> dict[str, float]:
    network = MemoryNetwork()
    mates = [Mate(network, f"n{i:04d}") for i in range(nodes)]
    members = [mate.roster.me for mate in mates]
    async with asyncio.TaskGroup() as group:
        running = {}
        for mate in mates:
            mate.roster.learn(members)
            await mate.transport.serve(mate)
            running[mate] = group.create_task(mate.gossiper.run())
        await asyncio.sleep(QUIET_S)
        sent = sum(mate.gossiper.bytes_out for mate in mates) / (nodes * QUIET_S)
        newcomer = Mate(network, "newcomer")
        newcomer.roster.learn(members)
        mates[0].roster.learn([newcomer.roster.me], first_hand=True)  # it has greeted one of them
        await newcomer.transport.serve(newcomer)
        running[newcomer] = group.create_task(newcomer.gossiper.run())
        join_s = await _until_all(mates, nodes + 1)
        network.kill("newcomer")
        running.pop(newcomer).cancel()
        death_s = await _until_all(mates, nodes)
        for task in running.values():
            task.cancel()
    return {"join_known_s": join_s, "death_known_s": death_s, "membership_bytes_per_node_s_quiet": sent}


async def _until_all(mates: list[Mate], members: int) -> float:
    """Return how long it takes until all hold a view of so many members."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while any(len(mate.roster.view().members) != members for mate in mates):
        if loop.time() - started > LIMIT_S:
            raise RuntimeError(f"not all views have {members} members after {LIMIT_S} s")
        await asyncio.sleep(POLL_S)
    return loop.time() - started
