"""The nodes of a simulation before any of them runs: their names, their configurations, whom they will meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...protocol.errors import ConfigError
from ..config import MembershipConfig, NodeConfig, SimulationConfig, ThisNode
from ..graph import Edges, degrees
from ..schedule import Schedule, plan
from ..topology import graph, make_topology


def node_name(index: int) -> str:
    """Return the name of the i-th simulated node; names sort as indexes do."""
    return f"n{index:04d}"


def node_names(config: SimulationConfig) -> list[str]:
    """Return the names of all nodes, in order."""
    return [node_name(i) for i in range(config.simulation.nodes)]


def node_config(config: SimulationConfig, index: int, **this: object) -> NodeConfig:
    """Return one node's configuration within a simulation; `this` are fields of its [node] table."""
    shared = config.model_dump(exclude={"simulation"})
    shared["task"] |= {"index": index, "count": config.simulation.nodes}
    node = ThisNode.model_validate({"name": node_name(index), "start_noise": config.simulation.start_noise} | this)
    membership = MembershipConfig(gossip=config.simulation.gossip)
    return NodeConfig.model_validate(shared | {"node": node.model_dump(), "membership": membership.model_dump()})


def check_ends(config: SimulationConfig) -> None:
    """Raise ConfigError for a schedule without an end."""
    if config.schedule.rounds == 0:
        raise ConfigError("schedule.rounds = 0 never ends: give a simulation a number of rounds, such as --rounds 30")


def meetings(config: SimulationConfig) -> dict[str, int]:
    """Return how many neighbours each node merges with in the whole run, summed over the merging rounds."""
    names, schedule = node_names(config), Schedule(**config.schedule.model_dump())
    graphs: Counter[Edges] = Counter()
    everyone = 0
    topology = make_topology(config.topology.name, config.topology.parameters)
    for planned in (plan(schedule, r) for r in range(schedule.rounds)):
        if planned.everyone:
            everyone += len(names) - 1
        elif planned.merge:
            graphs[graph(topology, names, planned.round)] += 1
    counts = dict.fromkeys(names, everyone)
    for edges, times in graphs.items():
        _count(counts, names, edges, times)
    return counts


def pool_edges(config: SimulationConfig) -> Edges:
    """Return every pair that the topology may ever join, as places among the nodes."""
    names = node_names(config)
    return make_topology(config.topology.name, config.topology.parameters).over(names).pool(len(names))


def _count(counts: dict[str, int], names: Sequence[str], edges: Edges, times: int) -> None:
    for name, degree in zip(names, degrees(edges, len(names)), strict=True):
        counts[name] += times * degree
