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
from ...protocol.memory_transport import MemoryNetwork
from ..config import SimulationConfig
from ..events import EventList
from ..participant import Participant, choose_device
from ..round import run_round
from ..state import State
from ..storage import MemoryStorage
from ..tasks import Shard, load_task
from ..workload import TaskWorkload

OnRound = Callable[[str, int, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Played:
    """What a simulation leaves: the nodes as they ended, and every event in the order it happened."""

    nodes: list[Participant]
    events: list[dict[str, Any]]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use so many torch threads meanwhile: small models lose time to more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def play(config: SimulationConfig, on_round: OnRound | None = None) -> Played:
    """Run a simulation on the memory network to its end."""
    with torch_threads(1):
        return run_virtual(_play(config, on_round))


async def _play(config: SimulationConfig, on_round: OnRound | None) -> Played:
    play = config.simulation
    network = MemoryNetwork(
        latency_s=play.latency_s, rate_bytes_s=play.rate_bytes_s, loss=play.loss, seed=config.seed
    )
    pool: WeakValueDictionary[bytes, State] = WeakValueDictionary()
    events: list[dict[str, Any]] = []
    nodes = [_participant(config, i, network, pool, events, on_round) for i in range(play.nodes)]
    for node in nodes:
        node.recover()
        await node.open()
    for node in nodes:
        node.membership.learn([other.membership.me for other in nodes], first_hand=True)
    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(_rounds(node, play.step_s, network, play.loss_until, play.nodes), name=node.name)
    for node in nodes:
        await node.close()
    return Played(nodes, events)


async def _rounds(node: Participant, step_s: float, network: MemoryNetwork, loss_until: int, nodes: int) -> None:
    while not node.last_round:
        if loss_until and node.round >= loss_until:
            for other in range(nodes):
                network.set_link(node.name, node_name(other), loss=0.0)
        await run_round(node, step_s)


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


def _participant(
    config: SimulationConfig,
    index: int,
    network: MemoryNetwork,
    pool: WeakValueDictionary[bytes, State],
    events: list[dict[str, Any]],
    on_round: OnRound | None,
) -> Participant:
    mine = node_config(config, index)
    device = choose_device(config.simulation.device)
    shard = Shard(index, config.simulation.nodes, config.seed)
    task = load_task(mine.task.name, shard, mine.task.arguments)
    return Participant(
        mine,
        TaskWorkload(task, device),
        network.transport(mine.node.name),
        VirtualClock(),
        MemoryStorage(),
        _Watched(mine.node.name, events, on_round),
        device=device,
        pool=pool,
    )


def names(nodes: Sequence[Participant]) -> list[str]:
    """Return the nodes' names in order."""
    return [node.name for node in nodes]
