"""Failure detection on virtual time: who died is found, who lives stays, and nobody's word alone does harm."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from statistics import median
from typing import Any, TypeVar

import pytest

from peermerge.node.config import MembershipConfig
from peermerge.node.membership.exchange import Exchange
from peermerge.node.membership.probing import Prober
from peermerge.node.membership.syncing import Syncer
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.members import MemberState
from peermerge.protocol.memory_transport import MemoryNetwork

from .meshes import Host, Mesh, addresses, mesh, names, pause_often, vary_latency

T = TypeVar("T")


def now() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


# ---- Who died is found. ----


def silence(opened: Mesh, host: Host, how: str) -> None:
    """Let a host die, stand still, or be cut off."""
    if how == "killed":
        host.kill()
    elif how == "stopped":
        host.running.clear()
    else:
        opened.network.cut([host.address], [other.address for other in opened.hosts if other is not host])


async def found(seed: int, how: str) -> list[float]:
    """Silence one of eight; return how long each other took to drop it."""
    async with mesh(8, seed, warm_s=3 + 0.13 * seed) as opened:
        lost = opened[seed % 8]
        silence(opened, lost, how)
        started = now()
        await opened.gone(lost, limit_s=60)
        seen = [(when - started, claim.name) for when, who, claim in opened.changes if who != lost.name]
        lost.running.set()
    assert {name for _, name in seen} == {lost.name}
    assert len(seen) == 7
    return [seconds for seconds, _ in seen]


@pytest.mark.parametrize(("how", "usual_s", "worst_s"), [("killed", 3, 6), ("stopped", 7, 10), ("cut off", 7, 10)])
@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(20), marks=pytest.mark.slow)])
def test_all_others_drop_who_is_gone_in_time(seeds: range, how: str, usual_s: float, worst_s: float) -> None:
    seconds = [each for seed in seeds for each in run_virtual(found(seed, how))]
    assert median(seconds) <= usual_s
    assert max(seconds) <= worst_s


def test_one_of_two_drops_the_other() -> None:
    async def program() -> float:
        async with mesh(2) as opened:
            opened[1].kill()
            return await opened.gone(opened[1], limit_s=60)

    assert run_virtual(program()) <= 6


def test_a_hint_finds_a_death_sooner() -> None:
    async def program(hint: bool) -> float:
        async with mesh(8, settings=MembershipConfig(probe_s=5.0)) as opened:
            opened[3].kill()
            if hint:
                opened[0].gossiper.doubt(opened[3].name)
            return await opened.gone(opened[3], limit_s=60)

    assert run_virtual(program(hint=True)) < run_virtual(program(hint=False))


def test_who_leaves_is_gone_within_a_second_and_was_never_suspected() -> None:
    async def program() -> float:
        async with mesh(8) as opened:
            before = opened.suspicions
            await opened[3].gossiper.leave()
            took = await opened.gone(opened[3], limit_s=1)
            await asyncio.sleep(60)
            assert opened.suspicions == before
            assert {claim.state for _, _, claim in opened.changes} == {MemberState.LEFT}
            return took

    assert run_virtual(program()) <= 1


def test_a_restarted_member_is_back_at_once_whatever_was_said_of_its_last_life() -> None:
    async def program() -> None:
        async with mesh(4) as opened:
            lost = opened[3]
            lost.kill()
            await opened.gone(lost, limit_s=10)
            opened.network.revive(lost.address)
            again = Host(lost.name, opened.network, MembershipConfig(), incarnation=1, seed=9)
            opened.hosts[3] = again
            await again.start()
            await again.greet(opened[0].address)
            assert await opened.until(names(opened.hosts), opened.hosts, limit_s=5) < 5

    run_virtual(program())


# ---- Who lives stays. ----


async def alarms(seconds: float) -> tuple[int, int]:
    """Return how many views changed and suspicions rose among eight live members under hard conditions."""
    async with mesh(8, loss=0.05) as opened:
        before = opened.suspicions
        opened[1].slow_s = opened[2].slow_s = (0.5, 0.8)
        trouble = [
            asyncio.create_task(vary_latency(opened, 0.02, 0.01)),
            asyncio.create_task(pause_often(opened[0], 2.0, 20.0)),
        ]
        await asyncio.sleep(seconds)
        for task in trouble:
            task.cancel()
        await asyncio.gather(*trouble, return_exceptions=True)
        opened[0].running.set()
        return len(opened.changes), opened.suspicions - before


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_loss_pauses_and_slow_members_raise_no_false_alarm(seconds: float) -> None:
    changes, suspicions = run_virtual(alarms(seconds))
    assert changes == 0
    assert suspicions > 0  # the pauses were noticed: they did happen


@pytest.mark.parametrize("seconds", [3.0, 30.0])
def test_a_process_that_was_stopped_condemns_nobody_when_it_goes_on(seconds: float) -> None:
    async def program() -> None:
        async with mesh(8) as opened:
            stopped = opened[5]
            await stopped.pause(seconds)
            await opened.until(names(opened.hosts), opened.hosts, limit_s=10)
            await asyncio.sleep(30)
            assert not [claim for _, who, claim in opened.changes if who == stopped.name]

    run_virtual(program())


def test_a_one_way_cut_between_two_whom_all_others_reach_changes_no_view() -> None:
    async def program() -> int:
        async with mesh(8) as opened:
            opened.network.cut_one_way([opened[0].address], [opened[1].address])
            await asyncio.sleep(300)
            return len(opened.changes)

    assert run_virtual(program()) == 0


@pytest.mark.parametrize("hears", [True, False])
def test_who_is_cut_off_one_way_from_all_is_dropped_and_takes_nobody_with_it(hears: bool) -> None:
    async def program() -> None:
        async with mesh(8) as opened:
            lone, rest = opened[0], opened.hosts[1:]
            cut = (addresses([lone]), addresses(rest))
            opened.network.cut_one_way(*(cut if hears else reversed(cut)))
            await asyncio.sleep(120)
            others = [claim.name for _, who, claim in opened.changes if who != lone.name]
            assert others == [lone.name] * len(rest)
            opened.network.heal()
            await opened.until(names(opened.hosts), opened.hosts, limit_s=10)

    run_virtual(program())


def test_who_comes_and_goes_changes_a_view_twice_a_minute_at_most() -> None:
    async def program() -> list[float]:
        async with mesh(8) as opened:
            flapping, rest = opened[2], [host for host in opened.hosts if host is not opened[2]]
            for _ in range(18):
                opened.network.cut(addresses([flapping]), addresses(rest))
                await asyncio.sleep(10)
                opened.network.heal()
                await asyncio.sleep(10)
            return [when for when, who, claim in opened.changes if (who, claim.name) == (rest[0].name, flapping.name)]

    changes = run_virtual(program())
    settled = [when for when in changes if when > 120]
    assert len(settled) > 4
    assert all(later - earlier > 55 for earlier, later in zip(settled, settled[2:], strict=False))


# ---- Arrivals. ----


def test_a_newcomer_who_greets_any_one_is_soon_known_to_all() -> None:
    async def program() -> float:
        async with mesh(32) as opened:
            newcomer = Host("newcomer", opened.network, MembershipConfig())
            opened.hosts.append(newcomer)
            await newcomer.start()
            await newcomer.greet(opened[17].address)
            return await opened.until(names(opened.hosts), opened.hosts, limit_s=60)

    assert run_virtual(program()) <= 5  # log2 of 32 periods of one second


def test_a_lone_node_asks_nobody_and_stays_its_only_member() -> None:
    async def program() -> None:
        async with mesh(1) as opened:
            await asyncio.sleep(60)
            assert opened[0].names == ("n0000",)
            assert opened[0].gossiper.bytes_out == 0

    run_virtual(program())


# ---- What it costs. ----


def test_a_member_sends_no_more_in_a_large_mesh() -> None:
    async def program(count: int) -> float:
        async with mesh(count) as opened:
            before = sum(host.gossiper.bytes_out for host in opened.hosts)
            await asyncio.sleep(20)
            return (sum(host.gossiper.bytes_out for host in opened.hosts) - before) / count / 20

    small, large = run_virtual(program(8)), run_virtual(program(64))
    assert 0 < large <= 1.1 * small < 150


# ---- Tasks. ----


def tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks of the loop but this one."""
    return asyncio.all_tasks() - {task for task in (asyncio.current_task(),) if task is not None}


async def trial(work: Coroutine[Any, Any, T]) -> T:
    """Run something and see that it leaves no task behind."""
    result = await work
    await asyncio.sleep(0)
    assert not tasks()
    return result


def test_a_cancelled_run_leaves_no_task_and_may_run_again() -> None:
    async def program() -> None:
        network = MemoryNetwork()
        host, other = (Host(name, network, MembershipConfig()) for name in ("host", "other"))
        host.roster.learn(other.roster.view().members)
        host.gossiper.doubt("other")  # not running: nothing happens
        for _ in range(2):
            await host.start()
            await asyncio.sleep(1.3)  # nobody listens as other: questions are under way
            host.gossiper.doubt("other")
            host.gossiper.doubt("other")
            host.gossiper.doubt("host")
            host.gossiper.doubt("nobody")
            await host.end()
            await host.door.close()
            assert not tasks()
        host.gossiper.doubt("other")

    run_virtual(trial(program()))


@pytest.mark.parametrize("broken", [(Prober, "_next"), (Syncer, "_forget"), (Exchange, "_newest")])
def test_a_failure_in_any_task_ends_the_run_with_it(broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("outside")

    async def program() -> None:
        network = MemoryNetwork()
        host, other = (Host(name, network, MembershipConfig()) for name in ("host", "other"))
        host.roster.learn(other.roster.view().members)
        monkeypatch.setattr(*broken, fail)
        with pytest.raises(IndexError, match="outside"):
            await host.gossiper.run()

    run_virtual(trial(program()))


def test_a_failure_while_leaving_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("outside")

    async def program() -> None:
        async with mesh(2) as opened:
            monkeypatch.setattr(Exchange, "_newest", fail)
            with pytest.raises(ExceptionGroup):
                await opened[0].gossiper.leave()
            monkeypatch.undo()

    run_virtual(program())


def test_who_is_cut_off_grows_patient_and_recovers() -> None:
    async def program() -> None:
        async with mesh(8) as opened:
            lone = opened[0]
            opened.network.cut([lone.address], addresses(opened.hosts[1:]))
            await asyncio.sleep(6)
            assert lone.gossiper.health > 0
            opened.network.heal()
            await asyncio.sleep(60)
            assert lone.gossiper.health == 0

    run_virtual(program())
