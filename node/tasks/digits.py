"""The default task: 1,797 real handwritten digits of 8x8 pixels that come with scikit-learn."""

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

EXAMPLES: Final = 1_797


def digits(
    shard: Shard,
    *,
    partition: str = "iid",
    batch: int = 32,
    lr: float = 0.02,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    test_size: int = 397,
    width: int = 16,
    hidden: int = 40,
) -> SupervisedTask:
    """Return the digits task: a network of 26 k parameters, 1,400 examples to train on, 397 to test on."""
    recipe = Recipe(optimizer=optimizer, lr=lr, batch=batch, momentum=momentum)
    return classifier(load(test_size), partial(convnet, 8, width, hidden), shard, partition, recipe)


digits_wide = partial(digits, width=32, hidden=176)
"""The same data with a network of 0.2 M parameters."""


@lru_cache(maxsize=4)
def load(test_size: int) -> Dataset:
    """Return the digits in a fixed random order, the last `test_size` for testing; all nodes share them."""
    if not 0 < test_size < EXAMPLES:
        raise ConfigError(f"test_size {test_size}: there are {EXAMPLES} digits to divide")
    pixels, labels = require("sklearn.datasets", "pip install 'peermerge[examples]'").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(EXAMPLES)
    train, test = order[:-test_size], order[-test_size:]
    return Dataset(*(images(pixels[part], labels[part], mean=4.9, deviation=6.0) for part in (train, test)))
