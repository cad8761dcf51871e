from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from peermerge.node.tasks import Shard, TrainReport, load_task
from peermerge.node.workload import LoopWorkload, TaskWorkload, Workload, reestimate

CPU = torch.device("cpu")


class Plain:
    """A task that offers nothing beyond what it must."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        return TrainReport(steps, 4 * steps, 1.0)

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"accuracy": 0.5}


class Rich(Plain):
    """A task that can be resumed and shows inputs."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {"step": 3, "optimizer": {"momentum": 1}}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = state

    def calibration(self) -> Iterable[torch.Tensor]:
        return [torch.ones(3, 2)]


def test_a_plain_task_trains_and_evaluates_and_has_no_state() -> None:
    work: Workload = TaskWorkload(Plain(), CPU)
    assert work.train(3) == TrainReport(3, 12, 1.0)
    assert work.train(0) == TrainReport(0, 0, 0.0)
    assert work.evaluate() == {"accuracy": 0.5}
    assert (list(work.calibration()), work.state_dict()) == ([], {})
    work.load_state_dict({"ignored": 1})
    work.reset_optimizer()


def test_a_rich_task_is_resumed_and_its_optimizer_forgotten() -> None:
    task = Rich()
    work = TaskWorkload(task, CPU)
    assert len(list(work.calibration())) == 1
    work.load_state_dict({})
    assert task.state["step"] == 3
    work.load_state_dict({"step": 9, "optimizer": {"momentum": 2}})
    work.reset_optimizer()
    assert work.state_dict() == {"step": 9, "optimizer": {}}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_built_in_task_trains_on_after_its_optimizer_was_forgotten(optimizer: str) -> None:
    work = TaskWorkload(load_task("digits", Shard(), {"optimizer": optimizer}), CPU)
    work.train(2)
    work.reset_optimizer()
    assert work.train(2).steps == 2


def test_a_users_loop_tells_what_it_has() -> None:
    model = nn.Linear(2, 1)
    bare: Workload = LoopWorkload(model)
    assert bare.train(5) == TrainReport(5, 0, 0.0)
    assert (bare.evaluate(), list(bare.calibration()), bare.state_dict()) == ({}, [], {})
    bare.reset_optimizer()
    bare.load_state_dict({"optimizer": {}})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    full = LoopWorkload(model, optimizer, lambda m: {"loss": 2.0}, lambda: [torch.ones(1, 2)])
    assert full.evaluate() == {"loss": 2.0}
    assert len(list(full.calibration())) == 1
    saved = full.state_dict()
    assert saved["optimizer"]["state"]
    full.reset_optimizer()
    assert not full.state_dict()["optimizer"]["state"]
    full.load_state_dict(saved)
    assert full.state_dict()["optimizer"]["state"]
    full.load_state_dict({})


class Network(nn.Sequential):
    """Normalisation in training and in evaluation mode, dropout between, and a frozen layer."""

    def __init__(self) -> None:
        first, last = nn.BatchNorm1d(3, momentum=0.2), nn.BatchNorm1d(3)
        super().__init__(first, nn.Dropout(0.5), nn.Linear(3, 3).requires_grad_(False), last.eval())
        self.norms = (first, last)


def test_statistics_become_the_mean_over_the_inputs_and_nothing_else_changes() -> None:
    model, generator = Network(), torch.Generator().manual_seed(0)
    batches = [torch.randn(50, 3, generator=generator) * 2 + 5 for _ in range(4)]
    found = model.state_dict()
    found["0.num_batches_tracked"].fill_(17)
    random_state = torch.get_rng_state()
    modes = [m.training for m in model.modules()]
    assert reestimate(model, batches, CPU) == 4
    torch.testing.assert_close(found["0.running_mean"], torch.cat(batches).mean(0))
    torch.testing.assert_close(found["0.running_var"], torch.stack([b.var(0) for b in batches]).mean(0))
    assert found["3.running_mean"].abs().sum() > 0
    assert found["0.num_batches_tracked"] == 17
    assert (model.norms[0].momentum, model.norms[1].momentum) == (0.2, 0.1)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(random_state, torch.get_rng_state())


def test_no_inputs_or_no_normalisation_leaves_the_model_alone() -> None:
    model = Network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert reestimate(model, [], CPU) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert reestimate(nn.Linear(2, 2), [torch.ones(1, 2)], CPU) == 0
    assert reestimate(nn.BatchNorm1d(2, track_running_stats=False), [torch.ones(4, 2)], CPU) == 0


def test_inputs_that_fail_leave_modes_and_momentum_as_they_were() -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield torch.ones(4, 3)
        raise OSError("the data went away")

    model = Network()
    with pytest.raises(OSError, match="went away"):
        reestimate(model, broken(), CPU)
    assert (model.norms[0].momentum, model.training, model.norms[1].training) == (0.2, True, False)


@pytest.mark.parametrize(("optimizer", "keeps"), [("adamw", True), ("sgd", False)])
def test_second_moments_of_a_task_stand_under_the_names_of_its_parameters(optimizer: str, keeps: bool) -> None:
    work = TaskWorkload(load_task("digits", Shard(), {"optimizer": optimizer, "width": 4, "hidden": 8}), CPU)
    assert work.second_moments() == {}
    work.train(1)
    found = work.second_moments()
    shapes = {name: parameter.shape for name, parameter in work.model.named_parameters()}
    assert {name: moment.shape for name, moment in found.items()} == (shapes if keeps else {})


def test_second_moments_of_a_loop_are_those_of_its_optimizer_whatever_its_order() -> None:
    first, last = nn.Linear(2, 3), nn.Linear(3, 1)
    model = nn.Sequential(first, last)
    optimizer = torch.optim.Adam([*last.parameters(), first.weight])
    work = LoopWorkload(model, optimizer)
    assert work.second_moments() == {}
    torch.autograd.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    found = work.second_moments()
    assert set(found) == {"0.weight", "1.weight", "1.bias"}
    assert found["0.weight"] is optimizer.state[first.weight]["exp_avg_sq"]
    assert LoopWorkload(model).second_moments() == {}


@pytest.mark.parametrize(
    "state",
    [
        {"optimizer": {"momentum": 1}},
        {"optimizer": {"0": 3}},
        {"optimizer": {"0": {"exp_avg_sq": torch.ones(7)}}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {},
    ],
)
def test_states_of_other_makes_have_no_second_moments(state: dict[str, Any]) -> None:
    task = Rich()
    task.state = state
    assert TaskWorkload(task, CPU).second_moments() == {}


def test_states_as_torch_writes_them_have() -> None:
    task = Rich()
    moments = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    task.state = {"optimizer": {"state": {i: {"exp_avg_sq": m} for i, m in enumerate(moments.values())}}}
    assert TaskWorkload(task, CPU).second_moments() == moments
