"""Nodes that stand still: nothing of theirs runs, what is due meanwhile comes afterwards, and nobody waits for them."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import Refusal
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport
from tests.protocol.transport_worlds import ScriptedHandler, collect, refusal_of

from .pausing import NODE, Door, PausingLoop

pytestmark = pytest.mark.faults


def loop() -> PausingLoop:
    """Return the loop that runs."""
    running = asyncio.get_running_loop()
    assert isinstance(running, PausingLoop)
    return running


def inside(node: str) -> asyncio.Task[list[float]]:
    """Let a node tick each second, ten times; return when it did."""

    async def ticks() -> list[float]:
        seen = []
        for _ in range(10):
            await asyncio.sleep(1.0)
            seen.append(loop().time())
        return seen

    context = copy_context()
    context.run(NODE.set, node)
    return asyncio.create_task(ticks(), context=context)


async def doors(network: MemoryNetwork, handler: ScriptedHandler) -> MemoryTransport:
    """Let `b` serve in its own context; return the end of `a`."""
    context = copy_context()
    context.run(NODE.set, "b")
    await network.transport("b").serve(Door(handler, context))
    a = network.transport("a")
    await a.serve(ScriptedHandler())
    return a


def test_a_paused_node_stands_still_and_no_other() -> None:
    async def program() -> tuple[list[float], list[float]]:
        one, other = inside("one"), inside("other")
        await asyncio.sleep(2.5)
        loop().pause("one")
        await asyncio.sleep(1.0)
        loop().pause("one")  # it is paused already: nothing gets lost
        await asyncio.sleep(3.0)
        loop().resume("one")
        return await one, await other

    one, other = run_virtual(program(), PausingLoop)
    assert one == pytest.approx([1, 2, *range_from(6.5, 8)])
    assert other == pytest.approx([float(second) for second in range(1, 11)])


def range_from(start: float, count: int) -> list[float]:
    """Return so many times, a second apart."""
    return [start + i for i in range(count)]


def test_a_deadline_that_passes_in_a_pause_is_met_behind_it() -> None:
    async def program() -> float:
        async def waits() -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.Event().wait()
            return loop().time()

        context = copy_context()
        context.run(NODE.set, "one")
        task = asyncio.create_task(waits(), context=context)
        await asyncio.sleep(0.5)
        loop().pause("one")
        await asyncio.sleep(10.0)
        loop().resume("one")
        assert loop().held["one"] >= 1
        return await task

    assert run_virtual(program(), PausingLoop) == pytest.approx(10.5)


def test_calls_to_a_paused_node_hang_until_their_deadline_or_its_return() -> None:
    async def program() -> None:
        network = MemoryNetwork(latency_s=0.1)
        a = await doors(network, ScriptedHandler((b"x", b"y")))
        loop().pause("b")
        begun = loop().time()
        assert (await refusal_of(a.pull("b", b"", timeout_s=2, stall_s=1))).refusal is Refusal.DEADLINE
        assert loop().time() - begun == pytest.approx(2.0)
        hello = asyncio.create_task(a.hello("b", b"", timeout_s=20))
        pull = asyncio.create_task(collect(a.pull("b", b"", timeout_s=20, stall_s=1)))
        await asyncio.sleep(5.0)
        assert not hello.done()
        loop().resume("b")
        assert await hello == b"hello "
        assert await pull == [b"x", b"y"]
        assert loop().time() - begun == pytest.approx(7.1)

    run_virtual(program(), PausingLoop)


def test_a_handler_of_a_client_that_is_gone_is_cleaned_up() -> None:
    async def program() -> None:
        handler = ScriptedHandler((b"x",), hang=True)
        a = await doors(MemoryNetwork(), handler)
        assert (await refusal_of(a.pull("b", b"", timeout_s=2, stall_s=1))).refusal is Refusal.DEADLINE
        await asyncio.wait_for(handler.cleaned.wait(), 1.0)
        assert handler.open == 0

    run_virtual(program(), PausingLoop)
