"""A small supervised task: cross-entropy on batches that are a pure function of the step.

Because batch k follows from (seed, node, k) alone, the position in the data is one integer, and a task
that resumes at step k draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .optimize import Descent, Recipe
from .partition import Indices, own_part
from .task import Shard, TrainReport

STREAM = 2
"""Keeps the random numbers of the batches apart from the partition's."""
EVALUATED_AT_ONCE = 2_048
CALIBRATION_BATCHES = 8


class Examples(NamedTuple):
    """Inputs and targets of the same leading length."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What every node of a process shares: all examples to train on, and those to test on."""

    train: Examples
    test: Examples


Batches = Callable[[int], Examples]


def random_of(shard: Shard, count: int) -> np.random.Generator:
    """Return the generator of a node's `count`-th draw (a step, an epoch)."""
    return np.random.default_rng([shard.seed, STREAM, shard.index, count])


class EpochBatches:
    """Batch k of a node's examples: epochs in fresh random order, the incomplete last batch left out."""

    def __init__(self, examples: Examples, indices: Indices, batch: int, shard: Shard) -> None:
        self._examples = examples
        self._indices = indices
        self._batch = min(batch, len(indices))
        self._shard = shard
        self._epoch = -1
        self._order = indices

    def __call__(self, step: int) -> Examples:
        """Return the batch of this step."""
        epoch, place = divmod(step, len(self._indices) // self._batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, random_of(self._shard, epoch).permutation(self._indices)
        chosen = torch.from_numpy(self._order[place * self._batch : (place + 1) * self._batch])
        return Examples(self._examples.inputs[chosen], self._examples.targets[chosen])


class SupervisedTask:
    """Train any network with a last dimension of logits on batches of inputs and class targets."""

    def __init__(
        self, build: Callable[[], nn.Module], batches: Batches, test: Examples, recipe: Recipe, seed: int
    ) -> None:
        self._build = build
        self._batches = batches
        self._test = test
        self._descent = Descent(recipe)
        self._seed = seed
        self._step = 0

    def model(self) -> nn.Module:
        """Build the initial model from the seed; the global generator is neither read nor moved."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed the accelerators as well.
            torch.default_generator.manual_seed(self._seed)
            return self._build()

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        """Take optimizer steps and report their mean loss."""
        model.to(device).train()
        optimizer = self._descent.attach(model)
        total, samples = torch.zeros((), device=device), 0
        for _ in range(steps):
            inputs, targets = self._batches(self._step)
            loss = cross_entropy(model(inputs.to(device)).flatten(0, -2), targets.to(device).flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach()
            samples += len(inputs)
            self._step += 1
        optimizer.zero_grad()
        return TrainReport(steps, samples, total.item() / max(1, steps))

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Return accuracy (0 to 1) and mean loss (nats) on the test examples."""
        return measure(model.to(device), self._test, device)

    def calibration(self) -> Iterator[Tensor]:
        """Yield the inputs of the first few training batches."""
        return (self._batches(step).inputs for step in range(CALIBRATION_BATCHES))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data and what the optimizer remembers."""
        return {"step": self._step, "optimizer": self._descent.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._step = int(state["step"])
        self._descent.load_state_dict(state["optimizer"])


def classifier(
    data: Dataset, build: Callable[[], nn.Module], shard: Shard, partition: str, recipe: Recipe
) -> SupervisedTask:
    """Return the task of the node that `shard` names, on its part of the data."""
    indices = own_part(data.train.targets.numpy(), shard, partition, recipe.batch)
    return SupervisedTask(build, EpochBatches(data.train, indices, recipe.batch, shard), data.test, recipe, shard.seed)


@torch.inference_mode()
def measure(model: nn.Module, test: Examples, device: torch.device) -> dict[str, float]:
    """Return accuracy and mean loss over all targets, in evaluation mode."""
    loss, hits = 0.0, 0
    with evaluating(model):
        for start in range(0, len(test.inputs), EVALUATED_AT_ONCE):
            inputs, targets = (tensor[start : start + EVALUATED_AT_ONCE].to(device) for tensor in test)
            logits, wanted = model(inputs).flatten(0, -2), targets.flatten()
            loss += cross_entropy(logits, wanted, reduction="sum").item()
            hits += int((logits.argmax(-1) == wanted).sum())
    return {"accuracy": hits / test.targets.numel(), "loss": loss / test.targets.numel()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and every one of its modules back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def images(pixels: NDArray[Any], labels: NDArray[Any], mean: float, deviation: float) -> Examples:
    """Make examples of shape [n, 1, side, side] from grey values of any shape [n, ...] of square images."""
    flat = np.asarray(pixels, dtype=np.float32).reshape(len(pixels), -1)
    side = math.isqrt(flat.shape[1])
    inputs = torch.from_numpy((flat - mean) / deviation).reshape(-1, 1, side, side)
    return Examples(inputs, torch.from_numpy(np.asarray(labels, dtype=np.int64)))
