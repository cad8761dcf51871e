"""A task that imports nothing but torch and has nothing to learn: what a daemon costs by itself."""

from __future__ import annotations

import torch
from torch import nn

from peermerge.node.tasks import Shard, TrainReport

WIDTH = 64
"""Of the one square layer: 4 k parameters, so that its copies do not count."""


class Nothing:
    """Holds a model and leaves it alone."""

    def model(self) -> nn.Module:
        """Return a layer of zeros."""
        layer = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        return layer

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        """Do nothing."""
        return TrainReport(steps, 0, 0.0)

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Measure nothing."""
        return {"loss": 0.0}


def nothing(shard: Shard) -> Nothing:
    """Return the task; all shards are alike."""
    return Nothing()
