"""The figures of a simulation: what summary.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from ..config import SimulationConfig
from .baselines import Figures, figures
from .mean import Judge, consensus_distance
from .nodes import meetings
from .outcome import NodeOutcome, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One simulation and its baselines in figures; what was not measured is None.

    Means are over the nodes that left weights: all, unless one died.
    """

    software: str
    seed: int
    task: str
    topology: str
    network: str
    nodes: int
    rounds: int
    parameters: int
    """Entries of the tensors that take part, statistics included."""
    metric: str
    """The figure that stands for all: accuracy, or the task's first."""
    finished_rounds: Mapping[str, int]
    accuracy_mean_model: float | None
    """Of the mean of the nodes' final weights (float32), evaluated by the task once."""
    accuracy_nodes_mean: float | None
    accuracy_nodes: Mapping[str, float | None]
    accuracy_alone_mean: float | None
    """The same nodes on the same data, never merging: mean of their accuracies."""
    accuracy_dense_mean_model: float | None
    """The same run with everything sent in every round: its mean model."""
    accuracy_central: float | None
    """One node with all the data and as many steps as one of ours."""
    bytes_sent_per_node: float
    """All application bytes that a node sent to its peers in the whole run; mean over the nodes."""
    bytes_sent: Mapping[str, int]
    models_per_node_neighbour_round: float | None
    """Bytes that a node sends to one neighbour in one merging round, over 4 bytes * parameters; mean over the nodes.

    All application bytes count (peers.bytes_out): frames, headers, greetings, requests.
    """
    seconds_per_round_beyond_training: float | None
    """Real seconds per node and merging round beyond training and evaluation; mean over the nodes.

    With grpc this includes the wait for slower neighbours; on the memory network it is computing time alone.
    """
    consensus_distance: float
    """Root mean square over the nodes of the distance between a node's weights and the mean model's."""
    metrics: Mapping[str, Any]
    """Of this run and of each baseline: all the task's metrics and the bytes sent per node."""
    config: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def summarise(config: SimulationConfig, outcome: Outcome, judge: Judge, baselines: Mapping[str, Figures]) -> Summary:
    """Work out all figures; at least one node must have left weights."""
    ours = figures(outcome, judge)
    left = [node for node in outcome.nodes if node.weights]
    metric = headline(ours.mean_model)
    alone, dense, central = (baselines.get(name) for name in ("alone", "dense", "central"))
    return Summary(
        software=version("peermerge"),
        seed=config.seed,
        task=config.task.name,
        topology=config.topology.name,
        network=config.simulation.network,
        nodes=config.simulation.nodes,
        rounds=config.schedule.rounds,
        parameters=judge.parameters,
        metric=metric,
        finished_rounds={node.name: node.finished_rounds for node in outcome.nodes},
        accuracy_mean_model=ours.mean_model.get("accuracy"),
        accuracy_nodes_mean=ours.nodes_mean.get("accuracy"),
        accuracy_nodes={node.name: node.metrics.get("accuracy") for node in outcome.nodes},
        accuracy_alone_mean=alone.nodes_mean.get("accuracy") if alone else None,
        accuracy_dense_mean_model=dense.mean_model.get("accuracy") if dense else None,
        accuracy_central=central.mean_model.get("accuracy") if central else None,
        bytes_sent_per_node=ours.bytes_sent_per_node,
        bytes_sent={node.name: node.bytes_out for node in outcome.nodes},
        models_per_node_neighbour_round=models_sent(left, meetings(config), judge.parameters),
        seconds_per_round_beyond_training=_seconds(left),
        consensus_distance=consensus_distance([node.weights for node in left], judge.exchanged),
        metrics={name: asdict(each) for name, each in {"merged": ours, **baselines}.items()},
        config=config.model_dump(mode="json"),
    )


def headline(metrics: Mapping[str, float]) -> str:
    """Return the metric that stands for all: accuracy, or else the first; empty if there is none."""
    return "accuracy" if "accuracy" in metrics else next(iter(metrics), "")


def models_sent(nodes: list[NodeOutcome], met: Mapping[str, int], parameters: int) -> float | None:
    """Return the dense models' worth of bytes per node, neighbour and merging round; None if nobody met anybody.

    `met` says how many neighbours a node merged with, summed over its merging rounds.
    """
    shares = [node.bytes_out / met[node.name] / (4 * parameters) for node in nodes if met[node.name]]
    return _mean(shares)


def _seconds(nodes: list[NodeOutcome]) -> float | None:
    return _mean([node.seconds_per_round for node in nodes if node.seconds_per_round is not None])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
