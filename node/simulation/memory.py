"""Play N nodes in this process: the same participants and the same bytes, on a virtual clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch

from ...protocol.clock import VirtualClock, run_virtual
from ...protocol.errors import DivergedError
from ...protocol.memory_transport import MemoryNetwork
from ..config import SimulationConfig
from ..events import EventList
from ..params import live_tensors
from ..participant import Participant, choose_device
from ..round import run_round
from ..state import State
from ..storage import MemoryStorage
from ..tasks import Shard, Task, TrainReport, load_task
from ..workload import TaskWorkload
from .nodes import check_ends, node_config, node_name
from .outcome import NodeFailed, NodeOutcome, Observer, Outcome

OnRound = Callable[[str, int, dict[str, Any]], None]
Watch = Callable[[Participant], None]


@dataclass(frozen=True, slots=True)
class Played:
    """What is left: the nodes as they ended, every event in the order it happened, and what it cost.

    seconds: real seconds of the whole simulation but for training and evaluation.
    """

    nodes: list[Participant]
    events: list[dict[str, Any]]
    seconds: float


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use so many torch threads meanwhile: small models lose time to more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def play_memory(config: SimulationConfig, observer: Observer) -> Outcome:
    """Run a simulation on the memory network and return what every network returns. Raises NodeFailed."""
    played = play(config, observer.round)
    merging = sum(node.progress.exchanges for node in played.nodes)
    seconds = played.seconds / merging if merging else None
    return Outcome([_outcome(node, seconds) for node in played.nodes], played.events)


def play(config: SimulationConfig, on_round: OnRound | None = None, watch: Watch | None = None) -> Played:
    """Run a simulation on the memory network to its end. Raises ConfigError and NodeFailed.

    `watch` sees every node before its first round and after each; what it does takes no virtual time.
    """
    check_ends(config)
    with torch_threads(1):
        return run_virtual(_play(config, on_round, watch))


async def _play(config: SimulationConfig, on_round: OnRound | None, watch: Watch | None) -> Played:
    play = config.simulation
    network = MemoryNetwork(latency_s=play.latency_s, rate_bytes_s=play.rate_bytes_s, loss=play.loss, seed=config.seed)
    pool: WeakValueDictionary[bytes, State] = WeakValueDictionary()
    events: list[dict[str, Any]] = []
    work = _Stopwatch()
    nodes = [_participant(config, i, network, pool, events, on_round, work) for i in range(play.nodes)]
    for node in nodes:
        node.recover()
        await node.open()
    members = [node.membership.me for node in nodes]
    for node in nodes:
        node.membership.learn(members, first_hand=True)
        events.clear()  # that everybody has met everybody is no news
    started = time.perf_counter()
    try:
        await _to_the_end(nodes, config, network, watch)
    except* NodeFailed as failed:
        raise failed.exceptions[0] from None
    seconds = time.perf_counter() - started - work.seconds
    for node in nodes:
        await node.close()
    return Played(nodes, events, seconds)


async def _to_the_end(
    nodes: Sequence[Participant], config: SimulationConfig, network: MemoryNetwork, watch: Watch | None
) -> None:
    """Run all nodes' rounds; all of them gossip, where that is chosen, until the last has ended."""
    async with asyncio.TaskGroup() as group:
        watching = nodes if config.simulation.gossip else []
        gossip = [group.create_task(node.gossip.run(), name=f"gossip of {node.name}") for node in watching]
        rounds = [group.create_task(_rounds(node, config, network, watch), name=node.name) for node in nodes]
        await asyncio.wait(rounds)
        for task in gossip:
            task.cancel()


async def _rounds(node: Participant, config: SimulationConfig, network: MemoryNetwork, watch: Watch | None) -> None:
    play = config.simulation
    see = watch or _look_away
    see(node)
    try:
        while not node.last_round:
            if play.loss_until and node.round >= play.loss_until:
                for other in range(play.nodes):
                    network.set_link(node.name, node_name(other), loss=0.0)
            await run_round(node, play.step_s)
            see(node)
    except DivergedError as error:
        raise NodeFailed(f"{node.name} failed in round {node.round}: {error}") from error


def _look_away(_node: Participant) -> None:
    """Watch nothing."""


class _Watched(EventList):
    """Collects all nodes' events in one list, in order, and reports rounds."""

    def __init__(self, node: str, events: list[dict[str, Any]], on_round: OnRound | None) -> None:
        super().__init__(node)
        self.events = events
        self._on_round = on_round

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if event == "round" and self._on_round is not None:
            self._on_round(self._node, fields["round"], fields)


class _Stopwatch:
    """Adds up the real seconds that all nodes train and evaluate."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


class _Timed(TaskWorkload):
    """A task whose training and evaluation are timed."""

    def __init__(self, task: Task, device: torch.device, work: _Stopwatch) -> None:
        super().__init__(task, device)
        self._work = work

    def train(self, steps: int) -> TrainReport:
        with self._work.running():
            return super().train(steps)

    def evaluate(self) -> dict[str, float]:
        with self._work.running():
            return super().evaluate()


def _participant(
    config: SimulationConfig,
    index: int,
    network: MemoryNetwork,
    pool: WeakValueDictionary[bytes, State],
    events: list[dict[str, Any]],
    on_round: OnRound | None,
    work: _Stopwatch,
) -> Participant:
    mine = node_config(config, index)
    device = choose_device(config.simulation.device)
    shard = Shard(index, config.simulation.nodes, config.seed)
    task = load_task(mine.task.name, shard, mine.task.arguments)
    return Participant(
        mine,
        _Timed(task, device, work),
        network.transport(mine.node.name),
        VirtualClock(),
        MemoryStorage(),
        _Watched(mine.node.name, events, on_round),
        device=device,
        pool=pool,
    )


def _outcome(node: Participant, seconds: float | None) -> NodeOutcome:
    return NodeOutcome(
        name=node.name,
        finished_rounds=node.round,
        metrics=node.progress.metrics,
        bytes_out=node.peers.bytes_out,
        links={name: record.bytes_out for name, record in sorted(node.peers.items())},
        seconds_per_round=seconds,
        weights=live_tensors(node.workload.model),
    )


def names(nodes: Sequence[Participant]) -> list[str]:
    """Return the nodes' names in order."""
    return [node.name for node in nodes]
