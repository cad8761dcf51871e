"""What a run will cost before it starts: bytes on the wire, in memory and on disk. Arithmetic only.

With n parameters, of which f are sent whole, and r bits per sparse parameter (`forecast.py`):

    frame     = ((n - f) r + f * 7.55) / 8 + 172 + tensors         one version, as every neighbour pulls it
    snapshot <= min(versions * frame, 4 n)                          all versions in one, for late joiners
    round     = neighbours * frame, out and in alike
    replicas  = 4 n * partners                                      int32 levels, memory-mapped from disk
    log      <= min(versions, 2 * retention) * frame + 2 snapshots
    checkpoints <= 3 * 12 n                                         two, and one being written: tau, optimizer

Partners are all whom a node may meet in some round: more than the neighbours of one round on changing graphs.
Activations and the data of the task are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import LogConfig, PublishConfig, RunConfig
from .forecast import Rate, grid_bits, rate
from .schedule import Schedule, plan
from .sparsify import FULL_BITS
from .topology import graph, make_topology, partners

FRAME_BYTES = 92 + 80
"""A frame's header and the record of one segment."""
SEGMENT = 1 << 20
SEGMENT_BYTES = 80
PROCESS_BYTES = 250_000_000
"""A process that has imported torch for the CPU and done nothing else."""
REPLICAS, PROCESS, LOG = "replicas (memory-mapped)", "python and torch", "log"
ENTRY_BYTES = 24
"""What the compressor takes at most for an entry that it sends, beside the change itself."""
PHASES = 64
"""Rounds of a changing graph that are looked at for the largest number of neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What takes part of a model: parameters, those sent whole every round, tensors, bytes of the live weights."""

    parameters: int
    full: int = 0
    tensors: int = 1
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Nodes, the most neighbours one has in a round, and the most partners one has in all rounds."""

    nodes: int
    neighbours: int
    partners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Figures of one node; bytes unless the name says otherwise."""

    density: float
    bits_per_parameter: float
    left_behind: float
    """Share of the squared norm of the change that one frame leaves for later ones."""
    frame: int
    snapshot: int
    """Upper bound."""
    round_out: int
    round_in: int
    dense_round_out: int
    """What float32 weights to the same neighbours would take."""
    merges: int | None
    """Rounds that merge; None without end."""
    run_out: int | None
    memory: dict[str, int]
    disk: dict[str, int]


def network(config: RunConfig, members: Sequence[str]) -> Network:
    """Return the shape of the configured topology over these members. Raises ConfigError."""
    names = sorted(members)
    topology = make_topology(config.topology.name, config.topology.parameters)
    most = 0
    for round_ in range(min(config.schedule.rounds or PHASES, PHASES)):
        degree = [0] * len(names)
        for i, j in graph(topology, names, round_):
            degree[i] += 1
            degree[j] += 1
        most = max([most, *degree])
    pool = max((len(partners(topology, names, name)) for name in names), default=0)
    return Network(nodes=len(names), neighbours=most, partners=pool)


def estimate(config: RunConfig, model: Model, shape: Network) -> Estimate:
    """Work out the costs of one node of a run."""
    bought = rate(config.publish)
    frame = frame_bytes(model, config.publish, bought)
    schedule = Schedule(**config.schedule.model_dump())
    plans = [plan(schedule, round_) for round_ in range(schedule.rounds)]
    merges = sum(p.merge for p in plans) if plans else None
    snapshot = min(frame * merges, 4 * model.parameters) if merges is not None else 4 * model.parameters
    run_out = None
    if merges is not None:
        strangers = shape.nodes - 1 - shape.neighbours if plans[-1].everyone else 0
        run_out = frame * shape.neighbours * merges + snapshot * strangers
    return Estimate(
        density=bought.density,
        bits_per_parameter=8 * frame / model.parameters,
        left_behind=bought.error,
        frame=frame,
        snapshot=snapshot,
        round_out=frame * shape.neighbours,
        round_in=frame * shape.neighbours,
        dense_round_out=4 * model.parameters * shape.neighbours,
        merges=merges,
        run_out=run_out,
        memory=memory(model, shape, bought.density),
        disk=disk(model, shape, config.log, frame, snapshot, merges),
    )


def frame_bytes(model: Model, publish: PublishConfig, bought: Rate) -> int:
    """Return the size of one version on the wire."""
    whole = rate(PublishConfig(lossless=True)).bits if publish.lossless else grid_bits(FULL_BITS)
    bits = (model.parameters - model.full) * bought.bits + model.full * whole
    return round(bits / 8) + FRAME_BYTES + SEGMENT_BYTES * (model.parameters // SEGMENT) + model.tensors


def together(costs: Estimate, nodes: int, *, one_process: bool) -> tuple[int, int]:
    """Return memory and disk of all nodes of one machine.

    In one process (a simulation on the memory network) there is one torch, followers of one node share its state,
    and what would lie on disk lies in memory.
    """
    memory, disk = sum(costs.memory.values()), sum(costs.disk.values())
    if not one_process:
        return nodes * memory, nodes * disk
    alone = memory - costs.memory[PROCESS] - costs.memory[REPLICAS] + costs.disk[LOG]
    return costs.memory[PROCESS] + nodes * alone, 0


def memory(model: Model, shape: Network, density: float) -> dict[str, int]:
    """Return the peak by part, on the host or the device, if this share of the entries is sent."""
    vector = 4 * model.parameters
    return {
        "weights and gradients": 2 * model.weight_bytes,
        "optimizer (Adam; less for SGD)": 2 * vector,
        "base and task vector": 2 * vector,
        "published state": vector,
        REPLICAS: shape.partners * vector,
        "compressing": 2 * vector + round(ENTRY_BYTES * density * model.parameters),
        PROCESS: PROCESS_BYTES,
    }


def disk(model: Model, shape: Network, log: LogConfig, frame: int, snapshot: int, merges: int | None) -> dict[str, int]:
    """Return upper bounds by part of the data directory."""
    vector, tail = 4 * model.parameters, 2 * log.retention
    return {
        LOG: frame * min(tail, merges if merges is not None else tail) + 2 * snapshot,
        "replicas": shape.partners * vector,
        "checkpoints": 3 * 3 * vector,
        "base": model.weight_bytes,
    }
