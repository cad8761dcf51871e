"""A tiny language model on text that is already on the machine: nodes are experts of different domains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from ...protocol.errors import ConfigError
from .classify import Examples, SupervisedTask, random_of
from .corpus import BLOCK, Corpus, load
from .gpt import ByteGPT
from .optimize import Recipe
from .partition import Indices, own_part
from .task import Shard


def bytes_gpt(
    shard: Shard,
    *,
    partition: str = "classes",
    domains: Sequence[str] = ("python", "manual", "cpp"),
    domain_bytes: int = 500_000,
    batch: int = 16,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    momentum: float = 0.9,
    test_size: int = 96,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 128,
) -> SupervisedTask:
    """Return the language task: 840 k parameters, bits per byte over equal parts of all domains.

    The domain is the class that a partition sees: "classes" gives domain d to node d mod N.
    """
    if not 0 < context < BLOCK or width % heads:
        raise ConfigError(f"context {context} must be below {BLOCK}, and width {width} a multiple of heads {heads}")
    recipe = Recipe(optimizer=optimizer, lr=lr, batch=batch, momentum=momentum)
    corpus = load(tuple(domains), domain_bytes)
    train = corpus.part(test=False)
    # A block holds many windows: one batch of blocks is plenty for the poorest node.
    indices = own_part(train.domains, shard, partition, max(1, batch // 2))
    batches = WindowBatches(train, indices, batch, context, shard)
    test = _windows(corpus.part(test=True), test_size, context)
    return BytesTask(partial(ByteGPT, width, layers, heads, context), batches, test, recipe, shard.seed)


class BytesTask(SupervisedTask):
    """Next-byte prediction, measured in bits per byte as well."""

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Return accuracy, loss in nats and bits per byte over the test windows."""
        metrics = super().evaluate(model, device)
        return {**metrics, "bits_per_byte": metrics["loss"] / math.log(2)}


class WindowBatches:
    """Batch k of a node's text: random windows of random blocks."""

    def __init__(self, corpus: Corpus, indices: Indices, batch: int, context: int, shard: Shard) -> None:
        self._blocks = corpus.blocks
        self._indices = indices
        self._batch = batch
        self._context = context
        self._shard = shard

    def __call__(self, step: int) -> Examples:
        """Return the batch of this step."""
        rng = random_of(self._shard, step)
        rows = rng.choice(self._indices, self._batch)
        starts = rng.integers(0, BLOCK - self._context, self._batch)
        return _examples(self._blocks, rows, starts, self._context)


def _windows(corpus: Corpus, count: int, context: int) -> Examples:
    # As many of each domain: its test blocks in turn, from evenly spaced places of a block.
    domains = int(corpus.domains[-1]) + 1
    each, blocks = max(1, count // domains), len(corpus.domains) // domains
    turn = np.tile(np.arange(each), domains)
    rows = np.repeat(np.arange(domains), each) * blocks + turn % blocks
    starts = (turn // blocks * context) % (BLOCK - context)
    return _examples(corpus.blocks, rows, starts, context)


def _examples(blocks: torch.Tensor, rows: Indices, starts: Indices, context: int) -> Examples:
    places = torch.from_numpy(starts[:, None] + np.arange(context + 1))
    text = blocks[torch.from_numpy(rows)[:, None], places].long()
    return Examples(text[:, :-1], text[:, 1:])
