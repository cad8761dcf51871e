"""The mean model of a simulation, how far the nodes are from it, and what the task says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..config import SimulationConfig
from ..params import live_tensors
from ..participant import choose_device
from ..tasks import Shard, load_task

Weights = Mapping[str, Tensor]


def mean_weights(nodes: Sequence[Weights]) -> dict[str, Tensor]:
    """Return the mean of every tensor over the nodes, added up in float64, as float32."""
    total = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in nodes[0].items()}
    for weights in nodes:
        for name, tensor in weights.items():
            total[name] += tensor.cpu()
    return {name: (t / len(nodes)).float() for name, t in total.items()}


def consensus_distance(nodes: Sequence[Weights], names: Sequence[str]) -> float:
    """Return the root mean square over the nodes of the distance to the mean model, over the tensors named."""
    mean = mean_weights(nodes)
    squares = [_square(weights[name].cpu().double() - mean[name]) for weights in nodes for name in names]
    return math.sqrt(math.fsum(squares) / len(nodes))


def _square(difference: Tensor) -> float:
    return float((difference * difference).sum())


class Judge:
    """The task as an outsider: measures any weights on the data that no node trains on."""

    def __init__(self, config: SimulationConfig) -> None:
        self._device = choose_device(config.simulation.device)
        shard = Shard(0, config.simulation.nodes, config.seed)
        self._task = load_task(config.task.name, shard, config.task.arguments)
        self._model = self._task.model().to(self._device)
        self._tensors = live_tensors(self._model)
        exchanged = live_tensors(
            self._model, config.include, config.exclude, buffers=config.merge.statistics != "local"
        )
        self.exchanged = list(exchanged)
        """Names of the tensors that take part."""
        self.parameters = sum(t.numel() for t in exchanged.values())

    @property
    def names(self) -> list[str]:
        """Names of all floating-point tensors that train or are statistics."""
        return list(self._tensors)

    def measure(self, weights: Weights) -> dict[str, float]:
        """Return the task's figures for these weights. Tensors that are not given stay as they were."""
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(weights.get(name, tensor))
        return self._task.evaluate(self._model, self._device)
