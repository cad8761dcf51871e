"""Small meshes for the integration tests: participants on a memory network, stepped round by round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch

from peermerge.node.config import NodeConfig, SimulationConfig, load, parse
from peermerge.node.events import EventList
from peermerge.node.greeting import greet_all
from peermerge.node.participant import Participant
from peermerge.node.round import run_round
from peermerge.node.simulation.nodes import node_config
from peermerge.node.storage import MemoryStorage
from peermerge.node.tasks import Shard, load_task
from peermerge.node.workload import TaskWorkload, Workload
from peermerge.protocol.clock import VirtualClock
from peermerge.protocol.memory_transport import MemoryNetwork

CPU = torch.device("cpu")
STEP_S = 0.01
SMALL = {"width": 4, "hidden": 8}
"""Arguments of the digits task for a network of 1.5 k parameters."""
GOSSIP = {"schedule.local_steps": 0, "simulation.start_noise": 0.05, "round.evaluate_every": 0}
"""Pure consensus: nodes start apart and only merge."""

MakeWorkload = Callable[[NodeConfig], Workload]


def simulated(**over: Any) -> SimulationConfig:
    """Return a simulation of the small digits network; `__` in a name stands for a dot."""
    settings: dict[str, Any] = {"task.arguments": SMALL, "simulation.nodes": 4, "schedule.rounds": 5}
    settings |= {"schedule.local_steps": 2, "log.checkpoint_every": 0}
    return load(SimulationConfig, None, settings | dotted(over))


def gossip(**over: Any) -> SimulationConfig:
    """Return a simulation of pure consensus."""
    return simulated(**{key.replace(".", "__"): value for key, value in GOSSIP.items()} | over)


def dotted(over: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments as dotted keys of a configuration."""
    return {key.replace("__", "."): value for key, value in over.items()}


def digits_workload(config: NodeConfig) -> Workload:
    """Return the workload that the configuration names."""
    shard = Shard(config.task.index, config.task.count, config.seed)
    return TaskWorkload(load_task(config.task.name, shard, config.task.arguments), CPU)


class Mesh:
    """Nodes of one run on one memory network."""

    def __init__(self, nodes: Sequence[Participant], network: MemoryNetwork) -> None:
        self.nodes = list(nodes)
        self.network = network

    @property
    def names(self) -> list[str]:
        """Names, in order; on a memory network they are the addresses too."""
        return [node.name for node in self.nodes]

    async def round(self, count: int = 1, *, step_s: Mapping[str, float] | None = None) -> None:
        """Let every node run so many rounds, all together; `step_s` says what a step costs on some of them."""
        for _ in range(count):
            await asyncio.gather(*(run_round(n, (step_s or {}).get(n.name, STEP_S)) for n in self.nodes))

    async def free(self, *, step_s: Mapping[str, float] | None = None) -> None:
        """Let every node run to its end at its own pace."""
        await asyncio.gather(*(self._to_end(n, (step_s or {}).get(n.name, STEP_S)) for n in self.nodes))

    def taus(self) -> torch.Tensor:
        """Return all live task vectors, (nodes, length), in double precision."""
        for node in self.nodes:
            node.params.collect()
        return torch.stack([node.params.tau.double() for node in self.nodes])

    def mean(self) -> torch.Tensor:
        """Return the network's mean task vector."""
        return self.taus().mean(0)

    def spread(self) -> float:
        """Return the root mean square distance of the nodes to their mean."""
        taus = self.taus()
        return float((taus - taus.mean(0)).square().sum(1).mean().sqrt())

    def drift(self, mean: torch.Tensor) -> float:
        """Return how far an entry of the mean has moved from `mean`, relative to the largest weight of all."""
        base = self.nodes[0].params.base.double()
        return float((self.mean() - mean).abs().max() / (base + self.taus()).abs().max())

    def skipped(self) -> dict[str, int]:
        """Return how often a neighbour was left out of a merge, by reason."""
        total: dict[str, int] = {}
        for record in (record for node in self.nodes for record in node.peers.values()):
            for reason, count in record.skipped.items():
                total[reason] = total.get(reason, 0) + count
        return total

    async def _to_end(self, node: Participant, step_s: float) -> None:
        while not node.last_round:
            await run_round(node, step_s)


@asynccontextmanager
async def opened(
    config: SimulationConfig,
    *,
    greets: Mapping[str, Sequence[str]] | None = None,
    learns: Mapping[str, Sequence[str]] | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    workload: MakeWorkload = digits_workload,
) -> AsyncIterator[Mesh]:
    """Open a mesh in which everybody knows everybody; close it at the end.

    greets: instead, each node greets those listed for it, and they introduce the rest. learns: instead, each node
    knows those listed for it and nobody else. own: dotted keys of a single node's configuration.
    """
    play = config.simulation
    network = MemoryNetwork(latency_s=play.latency_s, rate_bytes_s=play.rate_bytes_s, loss=play.loss, seed=config.seed)
    configs = [node_config(config, i) for i in range(play.nodes)]
    nodes = [participant(_with(c, greets, (own or {}).get(c.node.name, {})), network, workload) for c in configs]
    for node in nodes:
        node.recover()
        await node.open()
    if greets is not None:
        await asyncio.gather(*(greet_all(node) for node in nodes))
    for node in nodes if greets is None else []:
        listed = [o.membership.me for o in nodes if learns is None or o.name in learns[node.name]]
        node.membership.learn(listed, first_hand=True)
    try:
        yield Mesh(nodes, network)
    finally:
        for node in nodes:
            await node.close()


def participant(
    config: NodeConfig, network: MemoryNetwork, workload: MakeWorkload = digits_workload, **more: Any
) -> Participant:
    """Return a node that is not open yet."""
    given: dict[str, Any] = {"storage": MemoryStorage(), "events": EventList(config.node.name), "device": CPU} | more
    return Participant(config, workload(config), network.transport(config.node.name), VirtualClock(), **given)


def _with(config: NodeConfig, greets: Mapping[str, Sequence[str]] | None, own: Mapping[str, Any]) -> NodeConfig:
    data = config.model_dump()
    if greets is not None:
        data["membership"] |= {"peers": tuple(greets[config.node.name]), "expect": len(greets)}
    for key, value in own.items():
        section, _, field = key.rpartition(".")
        data[section][field] = value
    return parse(NodeConfig, data, "the test")
