"""One of eight nodes is killed and started again every ten rounds: nobody loses a round, and the models are as good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from statistics import fmean

import pytest

from peermerge.node.catch_up import join
from peermerge.node.config import NodeConfig, SimulationConfig, parse
from peermerge.node.events import EventList
from peermerge.node.greeting import greet_all
from peermerge.node.participant import Participant
from peermerge.node.round import run_round
from peermerge.node.simulation.memory import torch_threads
from peermerge.node.simulation.nodes import node_config, node_name
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.memory_transport import MemoryNetwork

from ..integration.mesh import participant, simulated

pytestmark = pytest.mark.faults

NODES = 8
EVERY = 10
"""Rounds between two kills."""
STEP_S = 0.1
AWAY_S = 3.0
POLL_S = 0.05
POINTS = 1.0
"""So much of the mean accuracy churn may cost."""


@dataclass(slots=True)
class Seat:
    """One node over all its lives: what outlives a kill."""

    config: NodeConfig
    storage: MemoryStorage
    events: EventList
    lives: int = 0
    node: Participant | None = None
    task: asyncio.Task[None] | None = None

    @property
    def rounds(self) -> list[int]:
        """The rounds that it ended."""
        return [event["round"] for event in self.events.events if event["event"] == "round"]


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    accuracy: float
    victims: list[str] = field(default_factory=list)
    seats: list[Seat] = field(default_factory=list)


def settings(seed: int, rounds: int) -> SimulationConfig:
    return simulated(
        seed=seed,
        task__arguments={"width": 8, "hidden": 20, "partition": "dirichlet:0.5"},
        simulation__nodes=NODES,
        simulation__gossip=True,
        topology__name="random-regular",
        schedule__rounds=rounds,
        schedule__local_steps=10,
        round__evaluate_every=0,
        log__checkpoint_every=10,
    )


def seat(config: SimulationConfig, index: int) -> Seat:
    data = node_config(config, index).model_dump()
    known = [node_name(other) for other in range(NODES) if other != index]
    data["membership"] |= {"peers": known, "expect": NODES - 1, "wait_s": 3.0}
    return Seat(parse(NodeConfig, data, "the test"), MemoryStorage(), EventList(node_name(index)))


async def live(seat: Seat, network: MemoryNetwork, over: asyncio.Event) -> None:
    """Run one life, from what is stored to the last round; be there for the others until all are through."""
    seat.lives += 1
    node = seat.node = participant(
        seat.config, network, storage=seat.storage, events=seat.events, incarnation=seat.lives
    )
    node.recover()
    await node.open()
    await greet_all(node)
    gossip = asyncio.create_task(node.gossip.run())
    try:
        await join(node)
        while not node.last_round:
            await run_round(node, STEP_S)
        await over.wait()
    finally:
        gossip.cancel()
        await asyncio.gather(gossip, return_exceptions=True)


async def die(seat: Seat, network: MemoryNetwork) -> None:
    """End a life as kill -9 does: nothing is said and nothing is saved."""
    assert seat.task is not None
    assert seat.node is not None
    network.kill(seat.node.name)
    seat.task.cancel()
    with suppress(asyncio.CancelledError):
        await seat.task
    await seat.node.close()


async def churn(config: SimulationConfig, kills: Sequence[int] = ()) -> Outcome:
    """Run the mesh to its end; once most have ended the rounds before `kills`, one is killed and started again."""
    draw = Random(config.seed)
    network, over = MemoryNetwork(), asyncio.Event()
    seats = [seat(config, index) for index in range(NODES)]
    victims: list[str] = []
    rounds = config.schedule.rounds

    def start(seat: Seat) -> None:
        seat.task = asyncio.create_task(live(seat, network, over), name=seat.config.node.name)

    def ended(round_: int) -> bool:
        for each in seats:
            if each.task is not None and each.task.done():
                each.task.result()
        return sum(each.rounds[-1:] >= [round_] for each in seats) > NODES // 2

    for each in seats:
        start(each)
    for round_ in kills:
        while not ended(round_ - 1):
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(draw.random())
        victim = draw.choice([each for each in seats[1:] if each.config.node.name not in victims[-1:]])
        await die(victim, network)
        victims.append(victim.config.node.name)
        await asyncio.sleep(AWAY_S)
        network.revive(victim.config.node.name)
        start(victim)
    while not all(each.rounds[-1:] >= [rounds - 1] for each in seats):
        ended(rounds)
        await asyncio.sleep(POLL_S)
    over.set()
    await asyncio.gather(*(each.task for each in seats if each.task))
    for each in seats:
        assert each.node is not None
        await each.node.close()
    accuracies = [each.node.progress.metrics["accuracy"] for each in seats if each.node]
    return Outcome(fmean(accuracies), victims, seats)


FULL = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("seed", "rounds"),
    [pytest.param(0, 16, id="quick"), *(pytest.param(seed, 40, id=f"full-{seed}", marks=FULL) for seed in range(3))],
)
def test_churn_costs_no_survivor_a_round_and_at_most_a_point(seed: int, rounds: int) -> None:
    config, kills = settings(seed, rounds), range(EVERY, rounds - EVERY // 2, EVERY)
    with torch_threads(1):
        calm = run_virtual(churn(config))
        rough = run_virtual(churn(config, kills))
    print(f"seed {seed}: {calm.accuracy:.4f} without, {rough.accuracy:.4f} with {len(rough.victims)} kills")
    assert len(rough.victims) == len(kills) > 0
    for each in rough.seats:
        assert each.lives == 1 + rough.victims.count(each.config.node.name)
        if each.lives == 1:
            assert each.rounds == list(range(rounds))
    assert any(each.lives == 1 for each in rough.seats)
    assert 100 * (calm.accuracy - rough.accuracy) <= POINTS
