"""Members that gossip on a memory network and virtual time; each may be killed, stopped, slowed and cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from peermerge.node.config import MembershipConfig
from peermerge.node.gather import Identity
from peermerge.node.membership import Roster
from peermerge.node.membership.gossip import Gossiper
from peermerge.node.peers import Peers
from peermerge.protocol.clock import VirtualClock
from peermerge.protocol.errors import Refusal, TransportError
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.members import Gossip, Member, MemberState
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport

NETWORK, RUN = "net", "run"
LATENCY_S = 0.02


class StoppableClock(VirtualClock):
    """The clock of a process that may be stopped."""

    def __init__(self, running: asyncio.Event) -> None:
        super().__init__()
        self._running = running

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass, and the process go on."""
        await super().sleep(seconds)
        await self._running.wait()


class StoppableLine:
    """The calls of a process that may be stopped: what comes after its deadline is lost, as with a real one."""

    def __init__(self, transport: MemoryTransport, running: asyncio.Event) -> None:
        self._transport = transport
        self._running = running

    @property
    def address(self) -> str:
        """As the transport's."""
        return self._transport.address

    async def gossip(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Ask, unless the process stands still."""
        await self._running.wait()
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            return await self._transport.gossip(address, request, timeout_s=timeout_s)
        finally:
            await self._running.wait()
            if asyncio.get_running_loop().time() > deadline + 1e-3:
                raise TransportError(Refusal.DEADLINE, f"{address} is silent")

    async def hello(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Ask, unless the process stands still."""
        await self._running.wait()
        return await self._transport.hello(address, request, timeout_s=timeout_s)

    async def pull(
        self, address: str, request: bytes, *, timeout_s: float, stall_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Nobody pulls here."""
        raise TransportError(Refusal.TRANSPORT, "no states here")
        yield b""

    async def serve(self, handler: object) -> None:
        """Nothing to do: the host opens the door."""

    async def close(self) -> None:
        """As the transport's."""
        await self._transport.close()


class Host:
    """One member: a roster, a gossiper, a door, and what may happen to its process."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        settings: MembershipConfig,
        *,
        incarnation: int = 1,
        seed: int = 0,
        address: str = "",
    ) -> None:
        self.name = name
        self.network = network
        self.running = asyncio.Event()
        self.running.set()
        self.slow_s = (0.0, 0.0)
        """How much later than others it answers."""
        self.answered = 0
        self.rng = Random(f"{seed}/{name}/{incarnation}")
        self.door = network.transport(address or name)
        self.roster = Roster(Member(name, self.door.address, incarnation))
        self.peers = Peers()
        identity = Identity(NETWORK, RUN, name, incarnation, b"", manifest_of([]))
        line = StoppableLine(self.door, self.running)
        clock = StoppableClock(self.running)
        self.gossiper = Gossiper(identity, self.roster, line, clock, self.peers, settings, self.rng)
        self.task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.door.address

    @property
    def names(self) -> tuple[str, ...]:
        """The members of its view."""
        return self.roster.view().names

    async def start(self) -> None:
        """Open the door and gossip."""
        await self.door.serve(self)
        self.task = asyncio.create_task(self.gossiper.run(), name=self.name)

    async def greet(self, address: str) -> None:
        """Tell somebody of us and take up whom it knows."""
        answer = Gossip.decode(await self.door.hello(address, self._everybody(), timeout_s=5.0))
        self.roster.learn(answer.news)

    async def end(self) -> None:
        """Cancel the gossip; raise what it died of."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            if not self.task.cancelled():
                self.task.result()

    def kill(self) -> None:
        """Let the process die."""
        self.network.kill(self.address)
        if self.task is not None:
            self.task.cancel()

    async def pause(self, seconds: float) -> None:
        """Stop the process and let it go on."""
        self.running.clear()
        await asyncio.sleep(seconds)
        self.running.set()

    # ---- The door. ----

    async def gossip(self, request: bytes) -> bytes:
        """Answer as soon as the process runs."""
        await self.running.wait()
        if self.slow_s[1]:
            await asyncio.sleep(self.rng.uniform(*self.slow_s))
        self.answered += 1
        reply = await self.gossiper.answer(request)
        await self.running.wait()
        return reply

    async def hello(self, request: bytes) -> bytes:
        """Learn of somebody, and tell of everybody."""
        await self.running.wait()
        self.roster.learn(Gossip.decode(request).news)
        return self._everybody()

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Nobody pulls here."""
        raise TransportError(Refusal.TRANSPORT, "no states here")
        yield b""

    def _everybody(self) -> bytes:
        return Gossip(network=NETWORK, run=RUN, name=self.name, news=self.roster.view().members).encode()


class Mesh:
    """All members, and who held whom for what since when."""

    def __init__(self, hosts: list[Host], network: MemoryNetwork) -> None:
        self.hosts = hosts
        self.network = network
        self.changes: list[tuple[float, str, Member]] = []
        """Time, who changed its view, and the claim for which it did."""
        self.suspicions = 0
        for host in hosts:
            self.follow(host)

    def follow(self, host: Host) -> None:
        """Note how a host's view changes from now on."""

        def note(before: Member | None, claim: Member) -> None:
            self.suspicions += claim.state is MemberState.SUSPECT
            if (before is not None and before.state.live) != claim.state.live:
                self.changes.append((asyncio.get_running_loop().time(), host.name, claim))

        host.roster.watch(note)

    def __getitem__(self, place: int) -> Host:
        """Return a host by its place."""
        return self.hosts[place]

    async def until(self, names: Iterable[str], hosts: Iterable[Host], limit_s: float) -> float:
        """Wait until all these hosts' views are these names; return how long it took. Fails after the limit."""
        expected, watched = tuple(sorted(names)), list(hosts)
        loop = asyncio.get_running_loop()
        started = loop.time()
        while any(host.names != expected for host in watched):
            if loop.time() - started > limit_s:
                raise AssertionError({host.name: host.names for host in watched if host.names != expected})
            await asyncio.sleep(0.01)
        return loop.time() - started

    async def gone(self, lost: Host, limit_s: float) -> float:
        """Wait until no other has this one in its view; return how long it took."""
        others = [host for host in self.hosts if host is not lost]
        return await self.until((host.name for host in others), others, limit_s)


@asynccontextmanager
async def mesh(
    count: int, seed: int = 0, *, loss: float = 0.0, settings: MembershipConfig | None = None, warm_s: float = 3.0
) -> AsyncIterator[Mesh]:
    """Open a mesh in which everybody knows everybody; at the end raise what any gossip died of."""
    network = MemoryNetwork(latency_s=LATENCY_S, loss=loss, seed=seed)
    hosts = [Host(f"n{i:04d}", network, settings or MembershipConfig(), seed=seed) for i in range(count)]
    for host in hosts:
        host.roster.learn(other.roster.me for other in hosts)
    opened = Mesh(hosts, network)
    for host in hosts:
        await host.start()
    await asyncio.sleep(warm_s)
    opened.changes.clear()
    try:
        yield opened
    finally:
        for host in opened.hosts:
            await host.end()
            await host.door.close()


async def vary_latency(opened: Mesh, mean_s: float, spread_s: float, every_s: float = 1.0) -> None:
    """Change all links' latencies again and again, until cancelled."""
    rng = Random(len(opened.hosts))
    places = addresses(opened.hosts)
    while True:
        for a in places:
            for b in places:
                opened.network.link(a, b).latency_s = rng.uniform(mean_s - spread_s, mean_s + spread_s)
        await asyncio.sleep(every_s)


async def pause_often(host: Host, seconds: float, every_s: float) -> None:
    """Stop a process now and then, until cancelled."""
    while True:
        await asyncio.sleep(every_s - seconds)
        await host.pause(seconds)


def names(hosts: list[Host]) -> list[str]:
    """Return the names of hosts."""
    return [host.name for host in hosts]


def addresses(hosts: list[Host]) -> list[str]:
    """Return the addresses of hosts."""
    return [host.address for host in hosts]


def said(host: Host, *claims: Member, **more: Any) -> bytes:
    """Return a message as a host would send it."""
    return Gossip(network=NETWORK, run=RUN, name=host.name, news=(host.roster.me, *claims), **more).encode()
