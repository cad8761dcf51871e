"""What a node trains: a Task driven by the node, or a user's own loop that drives the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .tasks import Calibrated, Resumable, Task, TrainReport

MOMENTS = "exp_avg_sq"
"""What torch's Adam and its kin call their averages of squared gradients."""


class Workload(Protocol):
    """The node's view of training."""

    model: nn.Module

    def train(self, steps: int) -> TrainReport:
        """Take local steps; runs as the clock's work."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Measure the model."""
        ...

    def calibration(self) -> Iterable[Tensor]:
        """Yield inputs to re-estimate normalisation statistics on; nothing if there are none."""
        ...

    def second_moments(self) -> Mapping[str, Tensor]:
        """Return the optimizer's averages of squared gradients by parameter; nothing if it keeps none."""
        ...

    def reset_optimizer(self) -> None:
        """Forget optimizer state, if that is possible."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the weights."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state."""
        ...


class TaskWorkload:
    """A Task on a device."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task = task
        self.device = device
        self.model = task.model().to(device)

    def train(self, steps: int) -> TrainReport:
        """Let the task train."""
        return self.task.train(self.model, steps, self.device) if steps else TrainReport(0, 0, 0.0)

    def evaluate(self) -> dict[str, float]:
        """Let the task evaluate."""
        return self.task.evaluate(self.model, self.device)

    def calibration(self) -> Iterable[Tensor]:
        """Yield the task's calibration inputs, if it offers any."""
        return self.task.calibration() if isinstance(self.task, Calibrated) else ()

    def second_moments(self) -> Mapping[str, Tensor]:
        """Find them in the `optimizer` of the task's state: places among the trainable parameters, as torch counts."""
        state = self.state_dict().get("optimizer", {})
        entries = {str(place): entry for place, entry in state.get("state", state).items()}
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        found = {}
        for place, (name, parameter) in enumerate(trained):
            entry = entries.get(str(place))
            if isinstance(entry, Mapping) and entry.get(MOMENTS, parameter.new_empty(0)).shape == parameter.shape:
                found[name] = entry[MOMENTS]
        return found

    def reset_optimizer(self) -> None:
        """Clear the `optimizer` of the task's state, if it has one."""
        state = self.state_dict()
        if "optimizer" in state:
            self.load_state_dict(state | {"optimizer": {}})

    def state_dict(self) -> dict[str, Any]:
        """Return the task's state, if it has one."""
        return self.task.state_dict() if isinstance(self.task, Resumable) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the task its state back."""
        if isinstance(self.task, Resumable) and state:
            self.task.load_state_dict(state)


class LoopWorkload:
    """A user's own training loop: it trains by itself and tells the node about every step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        calibration: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self.model = model
        self._optimizer = optimizer
        self._evaluate = evaluate
        self._calibration = calibration

    def train(self, steps: int) -> TrainReport:
        """Nothing: the user's loop has trained already."""
        return TrainReport(steps, 0, 0.0)

    def evaluate(self) -> dict[str, float]:
        """Call the user's function."""
        return dict(self._evaluate(self.model)) if self._evaluate else {}

    def calibration(self) -> Iterable[Tensor]:
        """Call the user's function."""
        return self._calibration() if self._calibration else ()

    def second_moments(self) -> Mapping[str, Tensor]:
        """Read them from the optimizer."""
        state = self._optimizer.state if self._optimizer is not None else {}
        return {
            name: state[parameter][MOMENTS]
            for name, parameter in self.model.named_parameters()
            if MOMENTS in state.get(parameter, ())
        }

    def reset_optimizer(self) -> None:
        """Clear the optimizer's state."""
        if self._optimizer is not None:
            self._optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return {"optimizer": self._optimizer.state_dict()} if self._optimizer is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the optimizer's state."""
        if self._optimizer is not None and "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])


def reestimate(model: nn.Module, batches: Iterable[Tensor], device: torch.device) -> int:
    """Replace the running statistics of every normalisation layer by the mean over these inputs; return batches used.

    Only normalisation layers are put into training mode, so that nothing else (dropout) changes; modes, counters
    and momentum are as before.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    momenta, modes = [m.momentum for m in layers], [(m, m.training) for m in model.modules()]
    counts = [None if m.num_batches_tracked is None else m.num_batches_tracked.clone() for m in layers]
    model.eval()
    try:
        return _forward(model, layers, batches, device)
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _forward(
    model: nn.Module, layers: Sequence[nn.modules.batchnorm._BatchNorm], batches: Iterable[Tensor], device: torch.device
) -> int:
    """Let the layers average over the batches, from the first batch on; return how many there were."""
    used = 0
    for batch in batches:
        if not used:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
                layer.train()
        model(batch.to(device))
        used += 1
    return used
