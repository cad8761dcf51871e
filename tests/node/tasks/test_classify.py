"""A supervised task learns, repeats itself exactly, resumes exactly and leaves alone what is not its own."""

import json
from functools import partial
from typing import TypeAlias

import pytest
import torch
from torch import Tensor, nn

from peermerge.node.tasks.classify import (
    Dataset,
    EpochBatches,
    Examples,
    SupervisedTask,
    classifier,
    evaluating,
    images,
)
from peermerge.node.tasks.convnet import convnet
from peermerge.node.tasks.optimize import Descent, Recipe
from peermerge.node.tasks.task import Calibrated, Resumable, Shard, Task

CPU = torch.device("cpu")
WHOLE = Shard()
Weights: TypeAlias = dict[str, Tensor]


def blobs(count: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 4
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    corners = torch.zeros(4, 1, 8, 8)
    for place, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        corners[place, :, row : row + 4, column : column + 4] = 1.0
    return Examples(noise * 0.5 + corners[targets], targets)


DATA = Dataset(blobs(200, 0), blobs(60, 1))


def make_task(shard: Shard = WHOLE, optimizer: str = "sgd", batch: int = 16, how: str = "iid") -> SupervisedTask:
    return classifier(DATA, partial(convnet, 8, 4, 8, 4), shard, how, Recipe(optimizer=optimizer, lr=0.01, batch=batch))


def weights(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def leaves(state: object) -> list[object]:
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return [leaf for value in state.values() for leaf in leaves(value)]
    if isinstance(state, list):
        return [leaf for value in state for leaf in leaves(value)]
    return [state]


def test_it_is_a_task_that_calibrates_and_resumes() -> None:
    task = make_task()
    assert isinstance(task, Task)
    assert isinstance(task, Calibrated)
    assert isinstance(task, Resumable)


def test_training_lowers_the_loss_and_reports_it() -> None:
    task = make_task()
    model = task.model()
    before = task.evaluate(model, CPU)
    report = task.train(model, 30, CPU)
    after = task.evaluate(model, CPU)
    assert (report.steps, report.samples) == (30, 480)
    assert 0 < report.loss < before["loss"]
    assert after["accuracy"] > 0.9 > before["accuracy"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_steps_are_reported_as_none() -> None:
    task = make_task()
    model = task.model()
    before = weights(model)
    report = task.train(model, 0, CPU)
    assert (report.steps, report.samples, report.loss) == (0, 0, 0.0)
    assert equal(before, weights(model))


def test_the_initial_model_follows_from_the_seed_alone() -> None:
    one = make_task(Shard(0, 2, 5)).model().state_dict()
    torch.rand(3)
    other = make_task(Shard(1, 2, 5)).model().state_dict()
    assert equal(one, other)
    assert not equal(one, make_task(Shard(0, 2, 6)).model().state_dict())


def test_the_global_generator_stays_where_it_was() -> None:
    before = torch.get_rng_state()
    task = make_task()
    model = task.model()
    task.train(model, 3, CPU)
    task.evaluate(model, CPU)
    list(task.calibration())
    assert torch.equal(before, torch.get_rng_state())


def test_two_runs_of_one_shard_are_equal_and_of_two_shards_are_not() -> None:
    models = []
    for shard in (Shard(0, 2), Shard(0, 2), Shard(1, 2)):
        task = make_task(shard)
        models.append(task.model())
        task.train(models[-1], 5, CPU)
    first, same, other = (model.state_dict() for model in models)
    assert equal(first, same)
    assert not equal(first, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [1, 7, 15])
def test_resuming_equals_not_having_stopped(optimizer: str, steps: int) -> None:
    uninterrupted = make_task(optimizer=optimizer)
    expected = uninterrupted.model()
    uninterrupted.train(expected, steps, CPU)
    state, kept = uninterrupted.state_dict(), weights(expected)
    wanted = uninterrupted.train(expected, 10, CPU)

    resumed = make_task(optimizer=optimizer)
    resumed.load_state_dict(state)
    again = resumed.state_dict()
    model = resumed.model()
    model.load_state_dict(kept)
    assert resumed.train(model, 10, CPU) == wanted
    assert equal(weights(model), weights(expected))
    assert again["step"] == steps
    assert len(leaves(again)) == len(leaves(state)) > 1


def test_a_state_is_a_copy_of_tensors_and_json_scalars() -> None:
    task = make_task(optimizer="adamw")
    model = task.model()
    task.train(model, 2, CPU)
    state = task.state_dict()
    kept = [leaf.clone() for leaf in leaves(state) if isinstance(leaf, torch.Tensor)]
    json.dumps([leaf for leaf in leaves(state) if not isinstance(leaf, torch.Tensor)])
    task.train(model, 2, CPU)
    now = [leaf for leaf in leaves(state) if isinstance(leaf, torch.Tensor)]
    assert all(torch.equal(one, other) for one, other in zip(kept, now, strict=True))


def test_a_new_model_object_takes_over_the_optimizer_state() -> None:
    expected, replaced = make_task(), make_task()
    one, two = expected.model(), replaced.model()
    for task, model in ((expected, one), (replaced, two)):
        task.train(model, 4, CPU)
    three = replaced.model()
    three.load_state_dict(two.state_dict())
    expected.train(one, 4, CPU)
    replaced.train(three, 4, CPU)
    assert equal(weights(one), weights(three))


def test_frozen_parameters_are_left_alone() -> None:
    task = make_task()
    model = task.model()
    frozen = model.get_submodule("conv1").requires_grad_(False)
    before = weights(frozen)
    task.train(model, 3, CPU)
    assert equal(before, weights(frozen))


def test_an_optimizer_that_was_never_attached_remembers_nothing() -> None:
    assert Descent(Recipe(optimizer="sgd", lr=0.1, batch=2)).state_dict() == {}


def test_evaluating_changes_neither_the_model_nor_its_modes() -> None:
    task = make_task()
    model = task.model().train()
    model.get_submodule("norm1").eval()
    before, modes = weights(model), [module.training for module in model.modules()]
    assert task.evaluate(model, CPU) == task.evaluate(model, CPU)
    assert equal(before, weights(model))
    assert modes == [module.training for module in model.modules()]


def test_modes_return_even_when_evaluation_fails() -> None:
    model = convnet(8, 2, 2).train()

    def fail() -> None:
        with evaluating(model):
            assert not model.get_submodule("norm1").training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.get_submodule("norm1").training


def test_accuracy_and_loss_do_not_depend_on_how_many_are_evaluated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    model = task.model()
    whole = task.evaluate(model, CPU)
    monkeypatch.setattr("peermerge.node.tasks.classify.EVALUATED_AT_ONCE", 7)
    assert task.evaluate(model, CPU) == pytest.approx(whole)


def test_an_epoch_shows_every_example_at_most_once_and_only_the_nodes_own() -> None:
    examples = Examples(torch.arange(100.0), torch.arange(100))
    own = torch.arange(10, 60).numpy()
    batches = EpochBatches(examples, own, 8, Shard(0, 2))
    epoch = torch.cat([batches(step).targets for step in range(6)])
    assert len(set(epoch.tolist())) == 48
    assert set(epoch.tolist()) <= set(own.tolist())
    assert not torch.equal(batches(0).targets, batches(6).targets)
    assert torch.equal(batches(0).targets, EpochBatches(examples, own, 8, Shard(0, 2))(0).targets)


def test_a_node_with_less_than_a_batch_uses_what_it_has() -> None:
    task = make_task(Shard(0, 20), batch=64)
    assert task.train(task.model(), 2, CPU).samples == 20


def test_calibration_shows_inputs_without_moving_on() -> None:
    task, other = make_task(), make_task()
    model, same = task.model(), other.model()
    shown = list(task.calibration())
    assert {tuple(inputs.shape) for inputs in shown} == {(16, 1, 8, 8)}
    task.train(model, 3, CPU)
    other.train(same, 3, CPU)
    assert equal(weights(model), weights(same))


@pytest.mark.parametrize(("side", "shape"), [(8, (3, 10)), (28, (3, 10))])
def test_the_network_takes_images_of_either_size(side: int, shape: tuple[int, ...]) -> None:
    assert convnet(side, 2, 4)(torch.zeros(3, 1, side, side)).shape == shape


def test_images_are_normalised_squares_of_one_channel() -> None:
    made = images(
        torch.full((2, 9), 7, dtype=torch.uint8).numpy(), torch.tensor([1, 0]).numpy(), mean=5.0, deviation=2.0
    )
    assert made.inputs.shape == (2, 1, 3, 3)
    assert torch.equal(made.inputs, torch.ones(2, 1, 3, 3))
    assert made.targets.dtype == torch.int64
