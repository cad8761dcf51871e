"""`peermerge config`: find the mistakes of a file before a node starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...protocol.addresses import parse_address
from ...protocol.errors import ConfigError
from ..config import MergeConfig, NodeConfig, RunConfig, SimulationConfig, TaskConfig
from ..exposure import check_exposure
from ..registry import nearest
from ..schedule import Schedule
from ..tasks import TASKS, Shard
from ..topology import graph, make_topology
from .inputs import Sets, load_any, overrides


def check(
    file: Annotated[Path, typer.Argument(help="A node.toml, or a simulation's TOML.")],
    sets: Sets = None,
) -> None:
    """Check a file: keys, values, names of task, topology and merge method, addresses.

    A table [simulation] makes it a simulation's. The task itself is not loaded.
    """
    config = load_any(file, overrides({}, sets))
    if found := problems(config):
        raise ConfigError("\n".join(f"{file}: {problem}" for problem in found))
    kind = "a simulation" if isinstance(config, SimulationConfig) else f"node {config.node.name!r}"
    typer.echo(f"ok: {file} configures {kind}: {config.task.name}, {config.topology.name}, {config.merge.method}")


def problems(config: NodeConfig | SimulationConfig) -> list[str]:
    """Return everything that would stop a start, beyond what the models themselves refuse."""
    found = []
    for attempt in _checks(config):
        try:
            attempt()
        except ConfigError as error:
            found.append(str(error))
    return found


def _checks(config: NodeConfig | SimulationConfig) -> Iterator[Callable[[], object]]:
    yield partial(_check_task, config.task)
    yield partial(_check_topology, config)
    yield partial(Schedule, **config.schedule.model_dump())
    yield partial(_check_method, config.merge)
    if isinstance(config, NodeConfig):
        yield partial(_check_addresses, config)


def _check_task(task: TaskConfig) -> None:
    Shard(task.index, task.count)
    if task.name not in TASKS and ":" not in task.name:
        raise ConfigError(f"unknown task {task.name!r}: {nearest(task.name, TASKS)} Your own: module:factory")


def _check_topology(config: RunConfig) -> None:
    topology = make_topology(config.topology.name, config.topology.parameters)
    if isinstance(config, SimulationConfig):
        graph(topology, [f"n{i:04d}" for i in range(config.simulation.nodes)], 0)


def _check_addresses(config: NodeConfig) -> None:
    node = config.node
    written = [
        ("node.listen", node.listen, 0),
        ("node.advertise", node.advertise, 1),
        ("node.metrics", node.metrics, 0),
        ("membership.coordinator", config.membership.coordinator, 1),
    ]
    for key, address, lowest_port in [*written, *(("membership.peers", p, 1) for p in config.membership.peers)]:
        try:
            if address is not None:
                parse_address(address, lowest_port=lowest_port)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    check_exposure(config)


def _check_method(merge: MergeConfig) -> None:
    plain = MergeConfig()
    if (merge.method, merge.parameters, merge.after) == (plain.method, plain.parameters, plain.after):
        return  # good as it is; looking the others up loads torch
    from ..merging import make_method

    make_method(merge.method, merge.parameters, merge.after)
