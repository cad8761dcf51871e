"""The optimizer of a built-in task: a few choices, and a state that outlives model, device and process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn, optim

from ...protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a node descends: examples a step, learning rate, and which optimizer turns gradients into steps."""

    optimizer: str
    lr: float
    batch: int
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        if not _number(self.lr) or not 0 < self.lr < math.inf:
            raise ConfigError(f"lr {self.lr!r}: it must be a positive number")
        if not isinstance(self.batch, int) or self.batch < 2:
            raise ConfigError(f"batch {self.batch!r}: at least 2 examples, or batch normalisation has no variance")
        if not _number(self.momentum) or not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum {self.momentum!r}: it must lie in [0, 1)")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sgd(parameters: list[nn.Parameter], recipe: Recipe) -> optim.Optimizer:
    return optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum)


def _adamw(parameters: list[nn.Parameter], recipe: Recipe) -> optim.Optimizer:
    return optim.AdamW(parameters, lr=recipe.lr, betas=(recipe.momentum, 0.999), weight_decay=0.01)


OPTIMIZERS: Final[dict[str, Callable[[list[nn.Parameter], Recipe], optim.Optimizer]]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


class Descent:
    """One optimizer for whatever model it is handed: a new model or device takes over the old state."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._optimizer: optim.Optimizer | None = None
        self._bound: list[tuple[nn.Parameter, object]] = []
        self._waiting: dict[str, dict[str, Any]] = {}

    def attach(self, model: nn.Module) -> optim.Optimizer:
        """Return the optimizer of the model's trainable parameters where they are now."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self._optimizer is None or not self._holds(parameters):
            state = self.state_dict()
            self._optimizer = OPTIMIZERS[self._recipe.optimizer](parameters, self._recipe)
            self._bound = [(parameter, parameter.device) for parameter in parameters]
            self._restore(self._optimizer, state)
        return self._optimizer

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return a copy of what the optimizer remembers: place of the parameter -> name -> tensor or scalar."""
        if self._optimizer is None:
            return _copied(self._waiting)
        return _copied({str(place): entry for place, entry in self._optimizer.state_dict()["state"].items()})

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up a state; it is put to use when a model is attached."""
        self._waiting = _copied(state)
        self._optimizer = None

    def _holds(self, parameters: list[nn.Parameter]) -> bool:
        return len(parameters) == len(self._bound) and all(
            new is old and new.device == device for new, (old, device) in zip(parameters, self._bound, strict=True)
        )

    @staticmethod
    def _restore(optimizer: optim.Optimizer, state: dict[str, dict[str, Any]]) -> None:
        # Learning rates and the like come from the configuration, not from the past.
        groups = optimizer.state_dict()["param_groups"]
        entries = {int(place): entry for place, entry in state.items()}
        optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _copied(state: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        place: {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for place, entry in state.items()
    }
