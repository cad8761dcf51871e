"""The memory network's arithmetic and faults, on the virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import ConfigError, PeerError, Refusal, TransportError
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport
from tests.protocol.transport_worlds import ScriptedHandler, collect, refusal_of

T = TypeVar("T")


async def served(network: MemoryNetwork, *names: str, chunks: tuple[bytes, ...] = ()) -> list[MemoryTransport]:
    """Return serving transports of these names."""
    transports = [network.transport(name) for name in names]
    for transport in transports:
        await transport.serve(ScriptedHandler(chunks))
    return transports


async def timed(job: Coroutine[Any, Any, T]) -> tuple[float, T]:
    """Return how long a job took on the loop's clock, and its result."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    result = await job
    return loop.time() - start, result


async def failed_hello(transport: MemoryTransport, address: str, timeout_s: float = 10.0) -> Refusal:
    """Return why a hello failed."""
    with pytest.raises(TransportError) as raised:
        await transport.hello(address, b"", timeout_s=timeout_s)
    return raised.value.refusal


async def failed_pull(transport: MemoryTransport, address: str) -> Refusal:
    """Return why a pull failed."""
    return (await refusal_of(transport.pull(address, b"", timeout_s=60, stall_s=60))).refusal


@given(
    st.integers(0, 10**6),
    st.floats(0, 2, allow_subnormal=False),
    st.floats(1e3, 1e9),
    st.floats(0, 2, allow_subnormal=False),
)
def test_a_hello_takes_both_latencies_and_both_sizes_over_the_rates(
    size: int, there_s: float, rate: float, back_s: float
) -> None:
    async def program() -> tuple[float, bytes]:
        network = MemoryNetwork(rate_bytes_s=rate)
        network.set_link("a", "b", latency_s=there_s, one_way=True)
        network.set_link("b", "a", latency_s=back_s, one_way=True)
        a, _ = await served(network, "a", "b")
        return await timed(a.hello("b", bytes(size), timeout_s=10_000))

    took, reply = run_virtual(program())
    assert took == pytest.approx(there_s + back_s + (size + len(reply)) / rate, abs=1e-6)


def test_a_stream_pays_the_latency_once_and_every_byte_at_the_rate() -> None:
    async def program() -> tuple[float, list[bytes]]:
        network = MemoryNetwork(latency_s=0.5, rate_bytes_s=1000)
        a, _ = await served(network, "a", "b", chunks=(bytes(100),) * 5)
        return await timed(collect(a.pull("b", b"", timeout_s=60, stall_s=60)))

    took, messages = run_virtual(program())
    assert took == pytest.approx(0.5 + 0.5 + 5 * 0.1, abs=1e-6)
    assert len(messages) == 5


def test_streams_share_a_link_and_not_the_opposite_direction() -> None:
    async def program() -> list[float]:
        network = MemoryNetwork(latency_s=0, rate_bytes_s=1000)
        a, b = await served(network, "a", "b", chunks=(bytes(500),) * 2)
        both = [a.pull("b", b"", timeout_s=60, stall_s=60) for _ in range(2)]
        other = b.pull("a", b"", timeout_s=60, stall_s=60)
        timings = await asyncio.gather(*[timed(collect(stream)) for stream in [*both, other]])
        return [took for took, _ in timings]

    assert run_virtual(program()) == pytest.approx([2.0, 2.0, 1.0], abs=0.5)


def test_a_slow_reader_holds_the_sender_back() -> None:
    async def program() -> int:
        network = MemoryNetwork(latency_s=0)
        (a,) = await served(network, "a")
        handler = CountingHandler()
        await network.transport("b").serve(handler)
        stream = a.pull("b", b"", timeout_s=10_000, stall_s=60)
        await anext(stream)
        await asyncio.sleep(1000)
        await stream.aclose()
        return handler.sent

    assert run_virtual(program()) < 25


class CountingHandler:
    """Stream without end and count."""

    sent = 0

    async def hello(self, request: bytes) -> bytes:
        return request

    async def gossip(self, request: bytes) -> bytes:
        return request

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        while True:
            self.sent += 1
            yield b"x"


def test_a_first_message_may_take_longer_than_a_stall() -> None:
    async def program() -> list[bytes]:
        network = MemoryNetwork(latency_s=3)
        a, _ = await served(network, "a", "b", chunks=(b"late",))
        return await collect(a.pull("b", b"", timeout_s=10, stall_s=1))

    assert run_virtual(program()) == [b"late"]


def test_deadlines_are_kept_to_the_instant() -> None:
    async def program() -> tuple[float, Refusal]:
        network = MemoryNetwork(latency_s=5)
        a, _ = await served(network, "a", "b")
        return await timed(failed_hello(a, "b", timeout_s=7.5))

    took, refusal = run_virtual(program())
    assert took == pytest.approx(7.5, abs=1e-6)
    assert refusal is Refusal.DEADLINE


def test_calls_are_lost_as_often_as_the_link_says_and_after_its_latency() -> None:
    async def program() -> list[float]:
        network = MemoryNetwork(latency_s=0.25, rate_bytes_s=float("inf"), loss=0.3, seed=11)
        a, _ = await served(network, "a", "b")
        lost = []
        for _ in range(2000):
            start = asyncio.get_running_loop().time()
            try:
                await a.hello("b", b"", timeout_s=10)
            except TransportError:
                lost.append(asyncio.get_running_loop().time() - start)
        return lost

    lost = run_virtual(program())
    assert len(lost) == pytest.approx(600, abs=60)
    assert lost == pytest.approx([0.25] * len(lost), abs=1e-6)


def test_a_missing_peer_fails_at_once() -> None:
    async def program() -> tuple[float, Refusal]:
        (a,) = await served(MemoryNetwork(), "a")
        return await timed(failed_hello(a, "nobody"))

    assert run_virtual(program()) == (0.0, Refusal.TRANSPORT)


def test_a_cut_swallows_calls_until_their_deadline_and_only_between_its_groups() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        a, _, c, _ = await served(network, "a", "b", "c", "d")
        network.cut(["a", "b"], ["c", "d"])
        for caller, peer in ((a, "c"), (c, "b")):
            took, refusal = await timed(failed_hello(caller, peer, 3.0))
            assert took == pytest.approx(3.0)
            assert refusal is Refusal.DEADLINE
        await a.hello("b", b"", timeout_s=1)
        await c.hello("d", b"", timeout_s=1)
        network.heal()
        await a.hello("c", b"", timeout_s=1)
        await c.hello("b", b"", timeout_s=1)

    run_virtual(program())


def test_after_a_one_way_cut_requests_arrive_and_answers_do_not() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        a, b = await served(network, "a", "b")
        handler = ScriptedHandler((b"x",))
        c = network.transport("c")
        await c.serve(handler)
        network.cut_one_way(["c"], ["a"])
        ended = await refusal_of(a.pull("c", b"", timeout_s=2, stall_s=9))
        assert ended.refusal is Refusal.DEADLINE
        assert handler.started.is_set()
        assert await failed_hello(c, "a", 2.0) is Refusal.DEADLINE
        await c.hello("b", b"", timeout_s=1)
        await b.hello("c", b"", timeout_s=1)

    run_virtual(program())


def test_a_call_that_waits_at_a_cut_goes_on_when_it_heals_in_time() -> None:
    async def program() -> tuple[float, bytes]:
        network = MemoryNetwork(latency_s=0.1, rate_bytes_s=float("inf"))
        a, _ = await served(network, "a", "b")
        network.cut(["a"], ["b"])
        asyncio.get_running_loop().call_later(4.0, network.heal)
        return await timed(a.hello("b", b"", timeout_s=10))

    took, reply = run_virtual(program())
    assert took == pytest.approx(4.2)
    assert reply == b"hello "


def test_what_was_under_way_when_the_cut_came_does_not_arrive() -> None:
    async def program() -> Refusal:
        network = MemoryNetwork(latency_s=1.0)
        a, _ = await served(network, "a", "b")
        asyncio.get_running_loop().call_later(0.5, network.cut, ["a"], ["b"])
        return await failed_hello(a, "b")

    assert run_virtual(program()) is Refusal.DEADLINE


def test_a_death_breaks_calls_in_both_directions_at_once() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        a, b = network.transport("a"), network.transport("b")
        handler_a, handler_b = ScriptedHandler(hang=True), ScriptedHandler(hang=True)
        await a.serve(handler_a)
        await b.serve(handler_b)
        calls = [
            asyncio.create_task(failed_hello(a, "b", 60)),
            asyncio.create_task(failed_hello(b, "a", 60)),
            asyncio.create_task(failed_pull(a, "b")),
        ]
        asyncio.get_running_loop().call_later(2.0, network.kill, "b")
        await asyncio.gather(*calls)
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)
        assert [call.result() for call in calls] == [Refusal.TRANSPORT] * 3
        assert handler_a.cleaned.is_set()
        assert handler_b.open == 0

    run_virtual(program())


def test_a_dead_node_reaches_nobody_until_it_is_revived() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        a, b = await served(network, "a", "b")
        network.kill("b")
        assert await failed_hello(a, "b") is Refusal.TRANSPORT
        assert await failed_hello(b, "a") is Refusal.TRANSPORT
        network.revive("b")
        assert await a.hello("b", b"", timeout_s=1) == b"hello "
        assert await b.hello("a", b"", timeout_s=1) == b"hello "

    run_virtual(program())


def test_after_a_death_a_new_transport_takes_the_name_and_the_old_one_cannot_hurt_it() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        a, old = await served(network, "a", "b")
        network.kill("b")
        network.revive("b")
        new = network.transport("b")
        await new.serve(ScriptedHandler((b"new",)))
        stream = a.pull("b", b"", timeout_s=10, stall_s=10)
        await old.close()
        assert await collect(stream) == [b"new"]
        with pytest.raises(ConfigError, match="'b'"):
            await network.transport("b").serve(ScriptedHandler())

    run_virtual(program())


def test_links_may_change_while_the_program_runs() -> None:
    async def program() -> list[float]:
        network = MemoryNetwork(latency_s=0, rate_bytes_s=float("inf"))
        a, _ = await served(network, "a", "b")
        times = [(await timed(a.hello("b", b"", timeout_s=60)))[0]]
        network.set_link("a", "b", latency_s=3)
        times.append((await timed(a.hello("b", b"", timeout_s=60)))[0])
        network.set_link("b", "a", latency_s=1, one_way=True)
        times.append((await timed(a.hello("b", b"", timeout_s=60)))[0])
        network.set_link("a", "b", loss=1.0)
        assert await failed_hello(a, "b") is Refusal.TRANSPORT
        return times

    assert run_virtual(program()) == pytest.approx([0, 6, 4])


class NotingHandler(ScriptedHandler):
    """Note every request."""

    def __init__(self, chunks: tuple[bytes, ...] = ()) -> None:
        super().__init__(chunks)
        self.requests: list[bytes] = []

    async def hello(self, request: bytes) -> bytes:
        """Note and echo."""
        self.requests.append(request)
        return await super().hello(request)

    async def pull(self, request: bytes) -> AsyncIterator[bytes]:
        """Note and stream."""
        self.requests.append(request)
        async for chunk in super().pull(request):
            yield chunk


def test_a_doubled_request_is_handled_twice_and_answered_once() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        (a,) = await served(network, "a")
        handler = NotingHandler((b"x", b"y"))
        await network.transport("b").serve(handler)
        network.set_link("a", "b", duplicates=1.0, one_way=True)
        assert await a.hello("b", b"1", timeout_s=1) == b"hello 1"
        assert await collect(a.pull("b", b"2", timeout_s=1, stall_s=1)) == [b"x", b"y"]
        assert handler.requests == [b"1", b"1", b"2", b"2"]
        assert handler.open == 0
        assert network.faults == {"doubled": 2}

    run_virtual(program())


def test_a_streams_messages_are_doubled_as_often_as_the_link_says() -> None:
    async def program() -> tuple[list[bytes], int]:
        network = MemoryNetwork(seed=3)
        a, _ = await served(network, "a", "b", chunks=tuple(bytes([i]) for i in range(200)))
        network.set_link("b", "a", duplicates=0.3, one_way=True)
        return await collect(a.pull("b", b"", timeout_s=60, stall_s=60)), network.faults["doubled"]

    messages, doubled = run_virtual(program())
    assert doubled == pytest.approx(60, abs=20)
    assert len(messages) == 200 + doubled
    assert sorted(set(messages)) == [bytes([i]) for i in range(200)]
    assert messages == sorted(messages), "each copy comes right behind its original"


def test_a_connection_that_is_reset_in_the_midst_of_a_stream_ends_it_and_no_other() -> None:
    async def program() -> None:
        network = MemoryNetwork(seed=1)
        a, b = await served(network, "a", "b", chunks=(bytes(1000),) * 20)
        network.set_link("b", "a", resets=0.2, one_way=True)
        ended = [await refusal_of(a.pull("b", b"", timeout_s=60, stall_s=60)) for _ in range(3)]
        assert [error.refusal for error in ended] == [Refusal.TRANSPORT] * 3
        assert network.faults["reset"] == 3
        assert len(await collect(b.pull("a", b"", timeout_s=60, stall_s=60))) == 20
        network.set_link("b", "a", resets=0.0)
        assert len(await collect(a.pull("b", b"", timeout_s=60, stall_s=60))) == 20

    run_virtual(program())


def test_a_reset_breaks_off_what_two_nodes_have_under_way_and_they_may_call_again() -> None:
    async def program() -> None:
        network = MemoryNetwork(latency_s=1.0)
        a, b, c = await served(network, "a", "b", "c")
        calls = [asyncio.create_task(failed_hello(*ends)) for ends in ((a, "b"), (b, "a"))]
        other = asyncio.create_task(c.hello("b", b"", timeout_s=10))
        asyncio.get_running_loop().call_later(0.5, network.reset, "a", "b")
        assert [await call for call in calls] == [Refusal.TRANSPORT] * 2
        assert asyncio.get_running_loop().time() == pytest.approx(0.5)
        assert await other == b"hello "
        assert await a.hello("b", b"", timeout_s=10) == b"hello "
        assert network.faults["reset"] == 2

    run_virtual(program())


async def traced_program(seed: int) -> list[tuple[float, str, str]]:
    """Let four nodes talk over lossy links through a cut and a death; return everything they saw."""
    loop = asyncio.get_running_loop()
    network = MemoryNetwork(loss=0.1, seed=seed)
    names = ["a", "b", "c", "d"]
    transports = await served(network, *names, chunks=tuple(bytes(1000 * i) for i in range(5)))
    trace: list[tuple[float, str, str]] = []

    async def live(me: MemoryTransport, choose: random.Random) -> None:
        for _ in range(30):
            peer = choose.choice(names)
            try:
                await me.hello(peer, me.address.encode(), timeout_s=0.5)
                async for message in me.pull(peer, b"", timeout_s=0.5, stall_s=0.2):
                    trace.append((loop.time(), me.address + peer, str(len(message))))
            except PeerError as error:
                trace.append((loop.time(), me.address + peer, str(error)))
                await asyncio.sleep(choose.random() / 10)

    loop.call_later(0.3, network.cut, ["a"], ["b", "c"])
    loop.call_later(0.9, network.heal)
    loop.call_later(1.0, network.kill, "d")
    loop.call_later(1.3, network.revive, "d")
    await asyncio.gather(*[live(me, random.Random(i)) for i, me in enumerate(transports)])
    return trace


def test_the_same_program_sees_the_same_order() -> None:
    traces = [run_virtual(traced_program(seed)) for seed in (5, 5, 6)]
    assert traces[0] == traces[1] != traces[2]
    assert len({what for _, _, what in traces[0]}) > 5
