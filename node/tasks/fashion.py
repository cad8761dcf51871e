"""Fashion-MNIST (Xiao et al. 2017) as Debian packages it: 28x28 grey images of ten kinds of clothing."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

from ...protocol.errors import ConfigError
from .classify import Dataset, Examples, SupervisedTask, classifier, images
from .convnet import convnet
from .idx import read_idx
from .optimize import Recipe
from .task import Shard

ROOT = "/usr/share/datasets/fashion-mnist"


def fashion(
    shard: Shard,
    *,
    root: str = ROOT,
    partition: str = "iid",
    batch: int = 32,
    lr: float = 0.01,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    train_size: int = 6_000,
    test_size: int = 2_000,
    width: int = 8,
    hidden: int = 16,
) -> SupervisedTask:
    """Return the clothing task: a network of 14 k parameters on the first 6,000 / 2,000 images."""
    recipe = Recipe(optimizer=optimizer, lr=lr, batch=batch, momentum=momentum)
    data = load(root, train_size, test_size)
    return classifier(data, partial(convnet, 28, width, hidden), shard, partition, recipe)


@lru_cache(maxsize=2)
def load(root: str, train_size: int, test_size: int) -> Dataset:
    """Return the first images of each of the two parts; all nodes of a process share them."""
    return Dataset(_part(Path(root), "train", train_size), _part(Path(root), "t10k", test_size))


def _part(root: Path, name: str, size: int) -> Examples:
    pixels, labels = (read_idx(_found(root / f"{name}-{kind}-ubyte.gz")) for kind in ("images-idx3", "labels-idx1"))
    if not 0 < size <= len(pixels) == len(labels):
        raise ConfigError(f"{name} size {size}: {root} holds {len(pixels)} images and {len(labels)} labels")
    return images(pixels[:size], labels[:size], mean=72.9, deviation=90.0)


def _found(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: apt-get install dataset-fashion-mnist, or set root to its folder")
    return path
