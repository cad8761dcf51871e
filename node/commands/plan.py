"""`peermerge plan`: what a run will cost, before anything starts."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ...protocol.errors import ConfigError
from ...protocol.output import size
from ..config import NodeConfig, RunConfig, SimulationConfig
from ..estimate import Estimate, Model, Network, estimate, network, together
from .inputs import Sets, load_any, overrides


def plan(
    file: Annotated[Path, typer.Argument(help="A node.toml, or a simulation's TOML.")],
    parameters: Annotated[
        str | None, typer.Option(metavar="N", help="Parameters of the model; without it the task is loaded to count.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes in the network, if the file does not tell.")] = None,
    sets: Sets = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate bytes on the wire, memory and disk of a run.

    Frame sizes assume normally distributed changes: expect them within a third. Memory leaves out activations and data.
    """
    config = load_any(file, overrides({}, sets))
    shape = network(config, members(config, nodes or count(config)))
    model = counted(parameters) if parameters is not None else loaded(config)
    costs = estimate(config, model, shape)
    memory_network = isinstance(config, SimulationConfig) and config.simulation.network == "memory"
    total = together(costs, shape.nodes, one_process=memory_network)
    if json:
        typer.echo(jsons.dumps(facts(model, shape, costs, total), indent=1))
    else:
        _show(model, shape, costs, total)


def count(config: NodeConfig | SimulationConfig) -> int:
    """Return the nodes a file speaks of: those it plays, expects, lists, or shares its data among."""
    if isinstance(config, SimulationConfig):
        return config.simulation.nodes
    return max(config.membership.expect, len(config.membership.peers) + 1, config.task.count)


def members(config: RunConfig, nodes: int) -> list[str]:
    """Return names for so many nodes; those that explicit edges speak of come first."""
    listed = config.topology.parameters.get("pairs", ())
    ends = [end for pair in listed if isinstance(pair, list | tuple) for end in pair]
    named = sorted({end for end in ends if isinstance(end, str)})
    return named + [f"n{i:04d}" for i in range(nodes - len(named))]


def counted(parameters: str) -> Model:
    """Return a float32 model of so many parameters, as `7_000_000_000` or `7e9`."""
    try:
        number = int(float(parameters))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise ConfigError(f"--parameters {parameters}: give a number of at least 1, such as 7e9")
    return Model(parameters=number, weight_bytes=4 * number)


def loaded(config: RunConfig) -> Model:
    """Return the measures of the task's model. Raises ConfigError if it cannot be loaded."""
    from ..params import describe, live_tensors
    from ..tasks import Shard, load_task

    try:
        task = load_task(config.task.name, Shard(seed=config.seed), config.task.arguments)
    except ConfigError as error:
        raise ConfigError(f"{error}\nTo plan without loading the task, give --parameters N") from error
    model = task.model()
    tensors = live_tensors(model, config.include, config.exclude, buffers=config.merge.statistics != "local")
    manifest = describe(model, tensors)
    return Model(
        parameters=manifest.parameters,
        full=sum(spec.size for spec in manifest.tensors if spec.full),
        tensors=len(manifest.tensors),
        weight_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    )


def facts(model: Model, shape: Network, costs: Estimate, total: tuple[int, int]) -> dict[str, Any]:
    """Return everything as one JSON object; `total` is memory and disk of all nodes on one machine."""
    sums = {"memory_sum": sum(costs.memory.values()), "disk_sum": sum(costs.disk.values())}
    return {
        "model": asdict(model),
        "network": asdict(shape),
        "node": asdict(costs) | sums,
        "total": {"memory": total[0], "disk": total[1], "round_out": shape.nodes * costs.round_out},
    }


def _show(model: Model, shape: Network, costs: Estimate, total: tuple[int, int]) -> None:
    memory, disk = sum(costs.memory.values()), sum(costs.disk.values())
    smaller = f": {costs.dense_round_out / costs.round_out:.3g} x less than float32" if costs.round_out else ""
    run = "without end" if costs.run_out is None else f"{size(costs.run_out)} out in {costs.merges} merges"
    rows = [
        ("model", f"{model.parameters:,} parameters, {model.full:,} of them sent whole"),
        ("network", f"{shape.nodes} nodes, {shape.neighbours} neighbours in a round, {shape.partners} in all rounds"),
        ("sent of a change", f"{costs.density:.2%} of the entries, {1 - costs.left_behind:.0%} of the squared norm"),
        ("per neighbour and round", f"{size(costs.frame)} ({costs.bits_per_parameter:.3g} bits per parameter)"),
        ("per node and round", f"{size(costs.round_out)} out, {size(costs.round_in)} in{smaller}"),
        ("per node and run", run),
        ("whole state for a joiner", f"at most {size(costs.snapshot)}"),
        ("memory per node", size(memory)),
        *((f"  {name}", size(value)) for name, value in costs.memory.items()),
        ("disk per node", f"at most {size(disk)}"),
        *((f"  {name}", size(value)) for name, value in costs.disk.items()),
        ("all nodes on one machine", f"{size(total[0])} of memory, {size(total[1])} of disk"),
    ]
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, text, style="dim" if name.startswith(" ") else None)
    Console(highlight=False).print(table)
