"""The default task learns digits, alone and by merging."""

import pytest
import torch
from torch import nn

from peermerge.node.tasks import Shard, Task, load_task
from peermerge.node.tasks.digits import load
from peermerge.protocol.errors import ConfigError

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
CPU = torch.device("cpu")


def parameters(task: Task) -> int:
    return sum(parameter.numel() for parameter in task.model().parameters())


def average(models: list[nn.Module]) -> None:
    """The plain mean of everything that floats, written into every model."""
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():
        if value.is_floating_point():
            mean = torch.stack([state[name] for state in states]).mean(0)
            for state in states:
                state[name].copy_(mean)


def test_digits_are_learnt_in_a_hundred_steps() -> None:
    task = load_task("digits", Shard(), {})
    model = task.model()
    task.train(model, 100, CPU)
    assert task.evaluate(model, CPU)["accuracy"] > 0.93


def test_five_nodes_with_uneven_data_learn_together_what_none_learns_alone() -> None:
    tasks = [load_task("digits", Shard(index, 5), {"partition": "dirichlet:0.1"}) for index in range(5)]
    together, alone = ([task.model() for task in tasks] for _ in range(2))
    for _ in range(12):
        for task, model in zip(tasks, together, strict=True):
            task.train(model, 10, CPU)
        average(together)
    for index, model in enumerate(alone):
        load_task("digits", Shard(index, 5), {"partition": "dirichlet:0.1"}).train(model, 50, CPU)
    assert tasks[0].evaluate(together[0], CPU)["accuracy"] > 0.93
    assert sum(task.evaluate(model, CPU)["accuracy"] for task, model in zip(tasks, alone, strict=True)) / 5 < 0.65


def test_the_networks_have_the_sizes_that_are_promised() -> None:
    assert parameters(load_task("digits", Shard(), {})) == 25_778
    assert 190_000 < parameters(load_task("digits-wide", Shard(), {})) < 215_000


def test_all_nodes_of_a_process_share_the_data_and_never_train_on_the_test_part() -> None:
    data = load(397)
    assert data is load(397)
    assert (len(data.train.inputs), len(data.test.inputs)) == (1_400, 397)
    assert not (data.train.inputs.flatten(1).unsqueeze(1) == data.test.inputs[:20].flatten(1)).all(-1).any()


def test_a_test_part_of_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="test_size 1797"):
        load(1_797)
