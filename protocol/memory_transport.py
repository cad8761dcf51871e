"""Nodes that reach each other inside one process, over links with latency, a rate, loss and cuts.

Runs on whatever loop runs: on a virtual clock hours of traffic take milliseconds, and the same
program sees the same order every time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from itertools import product
from math import inf
from typing import Literal

from .answering import Watch, checked_message, told_refusal
from .errors import ConfigError, PeerError, Refusal, TransportError
from .memory_links import Call, Link
from .transport import PeerHandler

_WINDOW = 16
"""Messages under way on one stream before its sender waits for its receiver."""

_Arrival = tuple[float, bytes | PeerError | None]
"""When it arrives, and what: a message, a refusal, or the end of the stream."""


class MemoryNetwork:
    """The links between all nodes of a program; both directions of each may be changed while it runs."""

    def __init__(
        self, *, latency_s: float = 0.01, rate_bytes_s: float = 125e6, loss: float = 0.0, seed: int = 0
    ) -> None:
        self._usual = (latency_s, rate_bytes_s, loss)
        self._random = random.Random(seed)
        self._links: dict[tuple[str, str], Link] = {}
        self._doors: dict[str, MemoryTransport] = {}
        self._dead: set[str] = set()
        self._abandoned: set[str] = set()
        # A dict for its order: sets of objects would break calls off in another order in every process.
        self._calls: dict[Call, tuple[MemoryTransport, MemoryTransport]] = {}
        self.faults: Counter[str] = Counter()
        """How many messages were lost and doubled, and how many calls were reset."""

    def transport(self, name: str) -> MemoryTransport:
        """Return a new end of the network; `name` is its address."""
        return MemoryTransport(self, name)

    def set_link(
        self,
        a: str,
        b: str,
        *,
        latency_s: float | None = None,
        rate_bytes_s: float | None = None,
        loss: float | None = None,
        duplicates: float | None = None,
        resets: float | None = None,
        one_way: bool = False,
    ) -> None:
        """Change the link from a to b, and unless `one_way` the one from b to a."""
        for link in [self.link(a, b)] if one_way else [self.link(a, b), self.link(b, a)]:
            link.latency_s = link.latency_s if latency_s is None else latency_s
            link.rate_bytes_s = link.rate_bytes_s if rate_bytes_s is None else rate_bytes_s
            link.loss = link.loss if loss is None else loss
            link.duplicates = link.duplicates if duplicates is None else duplicates
            link.resets = link.resets if resets is None else resets

    def cut_one_way(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Swallow everything from one group to the other: calls hang until their deadline."""
        for a, b in product(senders, receivers):
            self.link(a, b).cut()

    def cut(self, group_a: Iterable[str], group_b: Iterable[str]) -> None:
        """Swallow everything between two groups."""
        a, b = list(group_a), list(group_b)
        self.cut_one_way(a, b)
        self.cut_one_way(b, a)

    def heal(self) -> None:
        """Mend every cut; calls still within their deadline go on."""
        for link in self._links.values():
            link.heal()

    def kill(self, name: str) -> None:
        """Let a node die: its calls and those to it fail at once, under way or new, until `revive`."""
        self._dead.add(name)
        self._abandoned.add(name)
        for call, ends in self._calls.items():
            if name in (end.address for end in ends):
                call.break_off()

    def reset(self, a: str, b: str) -> None:
        """Break off every call under way between two nodes; new ones are free to start."""
        for call, ends in self._calls.items():
            if {end.address for end in ends} == {a, b}:
                self._reset(call)

    def revive(self, name: str) -> None:
        """Let a dead node be reached again, by its old door or one that a new transport opens."""
        self._dead.discard(name)

    def link(self, a: str, b: str) -> Link:
        """Return the link that carries what a sends to b."""
        if (a, b) not in self._links:
            self._links[a, b] = Link(*self._usual)
        return self._links[a, b]

    def open_door(self, door: MemoryTransport) -> None:
        """Let `door` answer for its name. Raises ConfigError if another one does that has not been killed."""
        name = door.address
        if self._doors.get(name, door) is not door and name not in self._abandoned:
            raise ConfigError(f"another node listens as {name!r} in this memory network: choose another name")
        self._doors[name] = door
        self._abandoned.discard(name)

    def close_end(self, end: MemoryTransport) -> None:
        """Take a transport's door away and break its calls off."""
        if self._doors.get(end.address) is end:
            del self._doors[end.address]
        for call, ends in self._calls.items():
            if end in ends:
                call.break_off()

    @contextmanager
    def call(self, caller: MemoryTransport, peer: str, timeout_s: float) -> Iterator[tuple[Call, MemoryTransport]]:
        """Set up a call and who answers it, among those that a death breaks off. Raises TransportError."""
        name = caller.address
        if peer not in self._doors or not self._dead.isdisjoint((name, peer)):
            raise TransportError(Refusal.TRANSPORT, f"{name!r} reaches nobody who listens as {peer!r}")
        call = Call(self.link(name, peer), self.link(peer, name), peer, timeout_s)
        self._calls[call] = (caller, self._doors[peer])
        try:
            yield call, self._doors[peer]
        finally:
            del self._calls[call]

    async def send_request(self, call: Call, request: bytes) -> None:
        """Carry a request, or lose it. Raises TransportError for a lost one, a latency later."""
        if self._random.random() < call.out.loss:
            self.faults["lost"] += 1
            await asyncio.sleep(call.out.latency_s)
            raise TransportError(Refusal.TRANSPORT, f"the call to {call.peer} was lost")
        await call.out.cross(len(checked_message(request)))

    def copies(self, link: Link) -> int:
        """Draw how many times a message arrives."""
        if not link.duplicates or self._random.random() >= link.duplicates:
            return 1
        self.faults["doubled"] += 1
        return 2

    def strain(self, call: Call) -> None:
        """Draw whether the connection breaks at a message of the answer."""
        if call.back.resets and self._random.random() < call.back.resets:
            self._reset(call)

    def _reset(self, call: Call) -> None:
        self.faults["reset"] += 1
        call.break_off()


class MemoryTransport:
    """One node's end of a `MemoryNetwork`; its address is its name there."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network = network
        self._name = name
        self._handler: PeerHandler | None = None
        self._closed = False
        self._watch = Watch()
        self.failures = self._watch.failures

    @property
    def address(self) -> str:
        """The name peers call."""
        return self._name

    async def serve(self, handler: PeerHandler) -> None:
        """Open the door. Raises ConfigError if another one holds the name."""
        self._network.open_door(self)
        self._handler = handler

    async def close(self) -> None:
        """Close the door; calls in both directions end at once."""
        if not self._closed:
            self._closed = True
            self._network.close_end(self)

    async def hello(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Send the request over one link and the answer over the other."""
        return await self._ask(address, "hello", request, timeout_s)

    async def gossip(self, address: str, request: bytes, *, timeout_s: float) -> bytes:
        """Send the request over one link and the answer over the other."""
        return await self._ask(address, "gossip", request, timeout_s)

    async def _ask(self, address: str, method: Literal["hello", "gossip"], request: bytes, timeout_s: float) -> bytes:
        with self._call(address, timeout_s) as (call, door):
            async with call.step():
                await self._network.send_request(call, request)
                replies = [await door._answer(method, request) for _ in range(self._network.copies(call.out))]
                reply = replies[-1]
                await call.back.cross(len(reply) if isinstance(reply, bytes) else 0)
        return _message(reply)

    async def pull(
        self, address: str, request: bytes, *, timeout_s: float, stall_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Stream; the peer runs ahead of us by a window of messages at most."""
        with self._call(address, timeout_s) as (call, door):
            async with call.step():
                await self._network.send_request(call, request)
            inbox: asyncio.Queue[_Arrival] = asyncio.Queue(_WINDOW)
            # A request that arrives twice is answered twice; nobody hears the first answer.
            inboxes = [asyncio.Queue[_Arrival]() for _ in range(1, self._network.copies(call.out))] + [inbox]
            pumps = [asyncio.create_task(door._answer_pull(request, call, each)) for each in inboxes]
            try:
                limit_s = inf
                while (item := await _receive(call, inbox, limit_s)) is not None:
                    yield _message(item)
                    limit_s = stall_s
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    @contextmanager
    def _call(self, address: str, timeout_s: float) -> Iterator[tuple[Call, MemoryTransport]]:
        if self._closed:
            raise TransportError(Refusal.TRANSPORT, f"{self._name!r} is closed")
        with self._network.call(self, address, timeout_s) as ends:
            yield ends

    async def _answer(self, method: Literal["hello", "gossip"], request: bytes) -> bytes | PeerError:
        try:
            with self._watch:
                handler = self._served()
                answer = handler.hello if method == "hello" else handler.gossip
                return checked_message(await answer(request))
        except PeerError as refusal:
            return refusal

    async def _answer_pull(self, request: bytes, call: Call, inbox: asyncio.Queue[_Arrival]) -> None:
        end = None
        try:
            async with aclosing(self._watch.stream(self._served().pull, request)) as messages:
                async for message in messages:
                    for _ in range(self._network.copies(call.back)):
                        await inbox.put((await call.back.send(len(checked_message(message))), message))
                    self._network.strain(call)
        except PeerError as refusal:
            end = refusal
        await inbox.put((await call.back.send(0), end))

    def _served(self) -> PeerHandler:
        if self._handler is None:
            raise TransportError(Refusal.TRANSPORT, f"{self._name!r} does not serve")
        return self._handler


async def _receive(call: Call, inbox: asyncio.Queue[_Arrival], limit_s: float) -> bytes | PeerError | None:
    async with call.step(limit_s):
        when, item = await inbox.get()
        await call.back.arrival(when)
    return item


def _message(item: bytes | PeerError) -> bytes:
    if isinstance(item, PeerError):
        raise told_refusal(item.refusal, item.detail)
    return item
