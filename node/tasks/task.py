"""What a node asks of the thing it trains; a user's own class needs these methods and no base class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ...protocol.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of `count` nodes this is; `count=1` means all the data. Nodes of one run share the seed."""

    index: int = 0
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"shard index {self.index} of {self.count}: the index runs from 0 to count - 1")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed}: choose one that is not negative")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What some training did: steps taken, samples seen, mean loss over the steps (0 if there were none)."""

    steps: int
    samples: int
    loss: float


@runtime_checkable
class Task(Protocol):
    """A model, the data of one node, and how the one learns from the other."""

    def model(self) -> nn.Module:
        """Return the initial model: equal on all nodes of one seed, whatever the global generator says."""
        ...

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        """Take optimizer steps on this node's data; optimizer and position are the task's to keep."""
        ...

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Measure the model on data that no node trains on; leave model and generators as they were."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A task that can show inputs, for normalisation statistics and alignment."""

    def calibration(self) -> Iterable[torch.Tensor]:
        """Yield the inputs of a few training batches without moving on in the data."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A task that goes on after a restart exactly as if it had not been interrupted."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the weights: nested dicts and lists of tensors and JSON scalars."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""
        ...
