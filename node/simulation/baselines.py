"""What a simulation is compared with: the same data and the same number of steps per node, merged otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..config import PublishConfig, SimulationConfig, TopologyConfig
from .mean import Judge, mean_weights
from .memory import play_memory
from .outcome import Observer, Outcome


def alone(config: SimulationConfig) -> SimulationConfig:
    """Return the simulation in which nobody merges."""
    schedule = config.schedule.model_copy(update={"merge": "none", "final": "none"})
    return config.model_copy(update={"schedule": schedule})


def dense(config: SimulationConfig) -> SimulationConfig:
    """Return the simulation in which every round sends everything, without loss."""
    return config.model_copy(update={"publish": PublishConfig(lossless=True)})


def central(config: SimulationConfig) -> SimulationConfig:
    """Return the simulation of one node that holds all the data and takes as many steps as one node of ours."""
    one = config.simulation.model_copy(update={"nodes": 1, "start_noise": 0.0})
    return alone(config).model_copy(update={"simulation": one, "topology": TopologyConfig()})


BASELINES: dict[str, Callable[[SimulationConfig], SimulationConfig]] = {
    "alone": alone,
    "dense": dense,
    "central": central,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is compared."""

    mean_model: Mapping[str, float]
    """The task's metrics of the mean of the nodes' weights."""
    nodes_mean: Mapping[str, float]
    """The mean of the nodes' metrics."""
    bytes_sent_per_node: float


def play_baseline(name: str, config: SimulationConfig, judge: Judge, observer: Observer) -> Figures:
    """Play one baseline on the memory network, evaluated at its end only."""
    final = config.round.model_copy(update={"evaluate_every": 0})
    baseline = BASELINES[name](config).model_copy(update={"round": final})
    observer.phase(f"baseline: {name}", baseline.simulation.nodes * baseline.schedule.rounds)
    return figures(play_memory(baseline, observer), judge)


def figures(outcome: Outcome, judge: Judge) -> Figures:
    """Sum up the nodes that left weights."""
    nodes = [node for node in outcome.nodes if node.weights]
    metrics = [node.metrics for node in nodes]
    return Figures(
        mean_model=judge.measure(mean_weights([node.weights for node in nodes])),
        nodes_mean={key: sum(m.get(key, 0.0) for m in metrics) / len(metrics) for key in metrics[0]},
        bytes_sent_per_node=sum(node.bytes_out for node in nodes) / len(nodes),
    )
