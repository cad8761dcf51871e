"""A suite that needs a second and no download: scikit-learn's digits as they are, mirrored, turned and inverted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from _merging_suites import Parameters, Part, Suite
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, relu

from peermerge.node.tasks.digits import load

WIDTH = 64
BATCH, LR = 32, 2e-3
BASE_STEPS, STEPS, ROUND_STEPS = 60, 60, 10
TEST, VALIDATION = 397, 200
DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "upright": lambda x: x,
    "mirrored": lambda x: x.flip(-1),
    "turned": lambda x: x.rot90(1, (-2, -1)),
    "inverted": lambda x: -x,
}


def suite(seed: int) -> Suite:
    """Train a base on a fifth of all domains and one expert for each."""
    everything = load(TEST)
    train, targets = everything.train
    held, held_targets = train[:VALIDATION], targets[:VALIDATION]
    train, targets = train[VALIDATION:], targets[VALIDATION:]
    parts = {"validation": (held, held_targets), "test": tuple(everything.test)}
    mixed = torch.cat([domain(train[: len(train) // 5]) for domain in DOMAINS.values()])
    base = fit(fresh(seed), mixed, targets[: len(train) // 5].repeat(len(DOMAINS)), BASE_STEPS, seed)
    domains = list(DOMAINS.values())

    def accuracy(model: Parameters, task: int, part: Part) -> float:
        inputs, classes = parts[part]
        return float((logits(model, domains[task](inputs)).argmax(1) == classes).float().mean())

    def continued(model: Parameters, task: int, round_: int) -> Parameters:
        return fit(model, domains[task](train), targets, ROUND_STEPS, 10_000 * seed + 100 * task + round_)

    experts = tuple(fit(base, domain(train), targets, STEPS, seed) for domain in domains)
    return Suite("digits", seed, tuple(DOMAINS), base, experts, {}, accuracy, continued)


def fresh(seed: int) -> Parameters:
    """Return random weights of a network with two hidden layers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [64, WIDTH, WIDTH, 10]
    model: Parameters = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        model[f"{number}.weight"] = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        model[f"{number}.bias"] = torch.zeros(outputs)
    return model


def logits(p: Parameters, images: Tensor) -> Tensor:
    """Return the classes' logits of images of 8x8 pixels."""
    x = images.flatten(1)
    for number in range(2):
        x = relu(linear(x, p[f"{number}.weight"], p[f"{number}.bias"]))
    return linear(x, p["2.weight"], p["2.bias"])


def fit(start: Parameters, inputs: Tensor, targets: Tensor, steps: int, seed: int) -> Parameters:
    """Train with Adam on random batches."""
    generator = torch.Generator().manual_seed(seed)
    tuned = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.Adam(tuned.values(), lr=LR)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(logits(tuned, inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in tuned.items()}
