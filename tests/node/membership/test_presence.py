"""Presence at a real broker. Real time: every wait ends as soon as what it waits for is there."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import aiomqtt
import pytest

from peermerge.node.events import EventList
from peermerge.node.gather import Identity
from peermerge.node.membership import Roster
from peermerge.node.membership.presence import Presence
from peermerge.node.telemetry import Telemetry
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.clock import RealClock
from peermerge.protocol.limits import MAX_PRESENCE_BYTES
from peermerge.protocol.members import Member, MemberState

from ..brokers import Mosquitto, mosquitto, until
from ..worlds import BASE, MANIFEST

TOPIC = "peermerge/net/run/members"
QUICK_S = 1
"""Keepalive where a test waits for it."""
REPOSITORY = Path(__file__).resolve().parents[3]
OTHER_PROCESS = """
import asyncio, sys
from tests.node.membership.test_presence import Node
asyncio.run(Node("bob", sys.argv[1]).presence.run())
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as broker:
        yield broker


class Node:
    """A member that has nothing but a roster and its presence."""

    def __init__(self, name: str, url: str, incarnation: int = 1, keepalive_s: int = 5) -> None:
        self.roster = Roster(Member(name, f"host-{name}:1", incarnation))
        self.doubted: list[str] = []
        self.telemetry = Telemetry(EventList(name), name)
        me = Identity("net", "run", name, incarnation, BASE, MANIFEST)
        self.presence = Presence(
            *(me, self.roster, url, RealClock(), self.doubted.append, Random(7), self.telemetry),
            keepalive_s=keepalive_s,
        )

    def state_of(self, name: str) -> MemberState | None:
        member = self.roster.get(name)
        return None if member is None else member.state

    def knows(self, name: str) -> bool:
        return self.state_of(name) is MemberState.ALIVE

    @property
    def connected(self) -> bool:
        return self.presence.state == "connected"


@asynccontextmanager
async def present(*nodes: Node) -> AsyncIterator[None]:
    """Keep nodes connected; what a connection's task dies of is raised at the end."""
    tasks = [asyncio.create_task(node.presence.run()) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def outsider(broker: Mosquitto) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        yield client


def packed(claim: Member) -> bytes:
    return wire.Envelope(header=claim.message().SerializeToString(deterministic=True)).SerializeToString()


async def retained(broker: Mosquitto) -> dict[str, Member]:
    """Return what the broker keeps; a mark published last says that all of it has come."""
    found: dict[str, Member] = {}
    async with outsider(broker) as client:
        await client.subscribe(f"{TOPIC}/#", 1)
        await client.publish(f"{TOPIC}/end/of/list", b"", 1)
        async for message in client.messages:
            topic = str(message.topic)
            if topic.endswith("/end/of/list"):
                return found
            envelope = wire.Envelope.FromString(bytes(message.payload))
            assert envelope.signature == b""
            found[topic.rpartition("/")[2]] = Member.read(wire.Member.FromString(envelope.header))
    raise AssertionError("the broker went away")


# ---- Members. ----


async def test_members_find_each_other_and_newcomers_find_those_who_came_before(broker: Mosquitto) -> None:
    alice, bob, carol = (Node(name, broker.url) for name in ("alice", "bob", "carol"))
    async with present(alice, bob):
        await until(lambda: alice.knows("bob") and bob.knows("alice"), "two know each other")
        async with present(carol):
            await until(lambda: carol.knows("alice") and carol.knows("bob"), "the newcomer knows both")
            await until(lambda: alice.knows("carol") and bob.knows("carol"), "both know the newcomer")
            assert carol.connected
        assert not carol.connected
    assert alice.roster.view().address("bob") == "host-bob:1"
    assert alice.doubted == bob.doubted == []


async def test_a_killed_process_is_doubted_and_stays_a_member(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url)
    async with present(alice):
        process = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, broker.url], cwd=REPOSITORY)
        try:
            await until(lambda: alice.knows("bob"), "bob is there")
            process.send_signal(signal.SIGKILL)
            await until(lambda: alice.doubted == ["bob"], "the will is heard")
        finally:
            process.kill()
            process.wait()
        assert alice.knows("bob"), "a broker decides nothing"
        assert (await retained(broker))["bob"].state is MemberState.DEAD
        again = Node("bob", broker.url, incarnation=2)
        async with present(again):
            await until(lambda: alice.roster.get("bob") == again.roster.me, "its next life is heard of")
        assert alice.doubted == ["bob"]


async def test_who_leaves_says_so_and_takes_its_presence_back(broker: Mosquitto) -> None:
    alice, bob = Node("alice", broker.url), Node("bob", broker.url)
    bob.telemetry.emit("stop", round=3)
    async with present(alice):
        async with present(bob):
            await until(lambda: alice.knows("bob"), "bob is there")
            await bob.presence.leave()
        await until(lambda: alice.state_of("bob") is MemberState.LEFT, "bob has left")
        assert (await retained(broker)).keys() == {"alice"}
    assert alice.doubted == []
    assert bob.roster.me.refuted == 0, "it does not argue with its own farewell"
    assert bob.telemetry.oldest() is None


async def test_an_old_presence_of_somebody_held_for_dead_changes_nothing(broker: Mosquitto) -> None:
    ghost = Member("ghost", "host-ghost:1", 3)
    async with outsider(broker) as client:
        await client.publish(f"{TOPIC}/ghost", packed(ghost), 1, retain=True)
    alice, bob = Node("alice", broker.url), Node("bob", broker.url)
    alice.roster.learn([ghost])
    alice.roster.judge("ghost", MemberState.DEAD)
    async with present(alice):
        async with present(bob):
            await until(
                lambda: alice.knows("bob") and bob.knows("ghost"), "a newcomer learns it, to find out by itself"
            )
        assert alice.state_of("ghost") is MemberState.DEAD
        async with outsider(broker) as client:
            await client.publish(f"{TOPIC}/ghost", packed(Member("ghost", "host-ghost:2", 4)), 1)
        await until(lambda: alice.knows("ghost"), "it is back when it was started again")


async def test_a_will_counts_for_the_life_that_made_it_and_for_members_only(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url)
    alice.roster.learn([Member("bob", "host-bob:1", 5), Member("carol", "host-carol:1", 5)])
    async with present(alice), outsider(broker) as client:
        await until(lambda: alice.connected, "alice is there")
        for name, incarnation in (("bob", 4), ("stranger", 1), ("alice", 1), ("carol", 5)):
            await client.publish(f"{TOPIC}/{name}", packed(Member(name, "x:1", incarnation, 0, MemberState.DEAD)), 1)
        await until(lambda: alice.doubted, "the last of them is heard")
    assert alice.doubted == ["carol"]
    assert alice.state_of("stranger") is None
    assert alice.roster.me.state is MemberState.ALIVE


async def test_what_is_no_presence_is_counted_and_ignored(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url)
    bad = {
        "bob": b"\xff\xff not a message",
        "carol": packed(Member("dave", "host-dave:1")),
        "Not-A-Name": packed(Member("Not-A-Name", "host:1")),
        "large": packed(Member("large", "host:1")) + bytes(MAX_PRESENCE_BYTES),
        "eve": packed(Member("eve", "host:1", 1, 0, MemberState.SUSPECT)),
    }
    async with present(alice), outsider(broker) as client:
        await until(lambda: alice.connected, "alice is there")
        for name, payload in bad.items():
            await client.publish(f"{TOPIC}/{name}", payload, 1)
        await client.publish(f"{TOPIC}/erin", packed(Member("erin", "host-erin:1")), 1)
        await until(lambda: alice.knows("erin"), "what comes after them is heard")
    assert alice.presence.refused == len(bad)
    assert alice.roster.view().names == ("alice", "erin")


async def test_whatever_stands_under_our_name_is_put_right(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url, incarnation=2)

    async def held() -> Member | None:
        return (await retained(broker)).get("alice")

    async with present(alice), outsider(broker) as client:
        await until(lambda: alice.connected, "alice is there")
        late_will = packed(Member("alice", "host-alice:1", 1, 0, MemberState.DEAD))
        for mischief in (b"", b"nonsense", late_will):
            await client.publish(f"{TOPIC}/alice", mischief, 1, retain=True)
            mended = client.messages
            await client.subscribe(f"{TOPIC}/alice", 1)
            async for message in mended:
                if message.payload == packed(alice.roster.me):
                    break
            await client.unsubscribe(f"{TOPIC}/alice")
            assert await held() == alice.roster.me
        assert alice.roster.me.age == (2, 0)
        await client.publish(f"{TOPIC}/alice", packed(Member("alice", "elsewhere:1", 9)), 1, retain=True)
        await until(lambda: alice.roster.me.incarnation == 9, "it outdoes a later claim about itself")
        assert alice.roster.me.address == "host-alice:1"


# ---- The broker's own faults. ----


async def test_without_a_broker_nothing_fails(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        broker.kill()
        alice = Node("alice", broker.url)
        async with present(alice):
            await until(lambda: alice.presence.trouble, "it was tried")
            assert not alice.connected
            await alice.presence.leave()


async def test_a_broker_that_was_killed_has_our_presence_again_once_it_is_back(broker: Mosquitto) -> None:
    alice, bob = Node("alice", broker.url), Node("bob", broker.url)
    async with present(alice, bob):
        await until(lambda: alice.knows("bob") and bob.knows("alice"), "both are there")
        broker.kill()
        await until(lambda: not alice.connected and not bob.connected, "both notice")
        alice.telemetry.emit("round", round=4)
        assert alice.knows("bob"), "a broker's death is nobody else's"
        broker.start()
        await until(lambda: alice.connected and bob.connected, "both are back")
        assert (await retained(broker)) == {"alice": alice.roster.me, "bob": bob.roster.me}
        await until(lambda: alice.telemetry.oldest() is None, "what was queued meanwhile is published")
    assert alice.presence.connections == 2
    assert alice.doubted == bob.doubted == []


async def test_a_broker_that_stopped_is_noticed_and_taken_up_again(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url, keepalive_s=QUICK_S)
    async with present(alice):
        await until(lambda: alice.connected, "alice is there")
        broker.signal(signal.SIGSTOP)
        await until(lambda: not alice.connected, "the silence is noticed")
        assert alice.presence.trouble
        broker.signal(signal.SIGCONT)
        await until(lambda: alice.connected, "it is back")

        async def held() -> MemberState:
            return (await retained(broker))["alice"].state

        while await held() is not MemberState.ALIVE:  # the will of the old connection may come after
            await until(lambda: alice.connected, "it is connected")


async def test_telemetry_is_published_under_our_name_and_not_retained(broker: Mosquitto) -> None:
    alice = Node("alice", broker.url)
    async with outsider(broker) as client:
        await client.subscribe("peermerge/net/run/telemetry/+")
        async with present(alice):
            alice.telemetry.emit("round", round=4, metrics={"loss": 0.5})
            alice.telemetry.emit("pull", peer="bob")
            alice.telemetry.emit("degraded", round=5, reason="disk full")
            heard = []
            async for message in client.messages:
                assert str(message.topic) == "peermerge/net/run/telemetry/alice"
                assert not message.retain
                heard.append(json.loads(bytes(message.payload)))
                if len(heard) == 2:
                    break
    assert [each["event"] for each in heard] == ["round", "degraded"]
    assert heard[0]["metrics"] == {"loss": 0.5}
    assert alice.telemetry.dropped == 0
