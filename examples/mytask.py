"""A task of your own: a model, the data of one node, and how the one learns from the other.

peermerge simulate --task mytask:factory --task-arg width=64 --nodes 5
peermerge node start --task mytask:factory --task-arg width=64
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from peermerge.node import Shard, TrainReport

BATCH = 128


class Disc:
    """Tell points inside a circle from points outside; every node sees its own slice of the plane."""

    def __init__(self, shard: Shard, width: int, lr: float) -> None:
        self._shard = shard
        self._width = width
        self._lr = lr
        self._draw = torch.Generator().manual_seed(1000 * shard.seed + shard.index)
        self._optimizer: torch.optim.Optimizer | None = None

    def model(self) -> nn.Module:
        """Return the initial model: equal on all nodes of one seed."""
        torch.manual_seed(self._shard.seed)
        return nn.Sequential(nn.Linear(5, self._width), nn.Tanh(), nn.Linear(self._width, 2))

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        """Take optimizer steps on points of this node's slice."""
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(model.parameters(), lr=self._lr)
        total = 0.0
        for _ in range(steps):
            inputs, targets = points(BATCH, self._draw, self._shard)
            loss = cross_entropy(model(inputs.to(device)), targets.to(device))
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            total += loss.item()
        return TrainReport(steps=steps, samples=steps * BATCH, loss=total / max(1, steps))

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Return the accuracy on the whole plane."""
        inputs, targets = points(2_000, torch.Generator().manual_seed(1), Shard())
        with torch.no_grad():
            hits = model(inputs.to(device)).argmax(1) == targets.to(device)
        return {"accuracy": hits.float().mean().item()}


def points(count: int, draw: torch.Generator, shard: Shard) -> tuple[Tensor, Tensor]:
    """Draw points of a slice of the unit disc, and whether each lies in the inner half of its area."""
    angle = 2 * math.pi * (shard.index + torch.rand(count, generator=draw)) / shard.count
    area = torch.rand(count, generator=draw)
    x, y = area.sqrt() * angle.cos(), area.sqrt() * angle.sin()
    return torch.stack([x, y, x * x, y * y, x * y], 1), (area < 0.5).long()


def factory(shard: Shard, *, width: int = 32, lr: float = 0.02) -> Disc:
    """Return the task of the node that `shard` names. The arguments are what --task-arg sets."""
    return Disc(shard, width, lr)
