"""Failure detection on virtual time: who died is found, who lives stays, and nobody's word alone does harm."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

import pytest

from peermerge.node.config import MembershipConfig
from peermerge.node.membership import Roster
from peermerge.node.membership import gossip as module
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import ConfigError, EnvelopeError, PeerError, Refusal, TransportError
from peermerge.protocol.limits import MAX_HEADER_BYTES, MAX_MEMBERS
from peermerge.protocol.members import Gossip, Member, MemberState
from peermerge.protocol.memory_transport import MemoryNetwork

from .meshes import NETWORK, RUN, Host, Mesh, mesh, pause_often, vary_latency

T = TypeVar("T")


def now() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


def names(hosts: list[Host]) -> list[str]:
    """Return the names of hosts."""
    return [host.name for host in hosts]


def addresses(hosts: list[Host]) -> list[str]:
    """Return the addresses of hosts."""
    return [host.address for host in hosts]


def said(host: Host, *claims: Member, **more: Any) -> bytes:
    """Return a message as a host would send it."""
    return Gossip(network=NETWORK, run=RUN, name=host.name, news=(host.roster.me, *claims), **more).encode()


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


# ---- Partitions, arrivals. ----


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


# ---- What it costs. ----


def test_a_member_sends_no_more_in_a_large_mesh() -> None:
    async def program(count: int) -> float:
        async with mesh(count) as opened:
            before = sum(host.gossiper.bytes_out for host in opened.hosts)
            await asyncio.sleep(20)
            return (sum(host.gossiper.bytes_out for host in opened.hosts) - before) / count / 20

    small, large = run_virtual(program(8)), run_virtual(program(64))
    assert 0 < large <= 1.1 * small < 150


# ---- What strangers say. ----


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
            await asyncio.sleep(module.ALL_S)
            reply = await host.gossiper.answer(said(asker, all=True))
            assert MAX_HEADER_BYTES // 2 < len(reply) <= MAX_HEADER_BYTES
            heard |= {member.name for member in Gossip.decode(reply).news}
        assert len(heard) == MAX_MEMBERS

    run_virtual(program())


def test_everything_is_told_so_often_at_most() -> None:
    async def program() -> list[bool]:
        async with mesh(20) as opened:
            replies = [await answered(opened[0], said(opened[1], all=True)) for _ in range(3)]
            await asyncio.sleep(module.ALL_S)
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


# ---- Two with one name. ----


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


@pytest.mark.parametrize("broken", ["_next", "_forget", "_newest"])
def test_a_failure_in_any_task_ends_the_run_with_it(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("outside")

    async def program() -> None:
        network = MemoryNetwork()
        host, other = (Host(name, network, MembershipConfig()) for name in ("host", "other"))
        host.roster.learn(other.roster.view().members)
        monkeypatch.setattr(host.gossiper, broken, fail)
        with pytest.raises(IndexError, match="outside"):
            await host.gossiper.run()

    run_virtual(trial(program()))


def test_a_failure_while_leaving_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("outside")

    async def program() -> None:
        async with mesh(2) as opened:
            monkeypatch.setattr(opened[0].gossiper, "_newest", fail)
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


def test_the_dead_are_forgotten_in_the_end() -> None:
    async def program() -> Roster:
        async with mesh(2, settings=MembershipConfig(probe_s=60.0, sync_s=60.0)) as opened:
            opened[1].kill()
            await opened.gone(opened[1], limit_s=2000)
            await asyncio.sleep(module.FORGET_S + 120)
            return opened[0].roster

    assert run_virtual(program()).everybody() == (Member("n0000", "n0000", 1),)
