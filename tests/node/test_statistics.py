"""What a node measures, and what merge methods get to see of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.params import Parameters, describe, live_tensors
from peermerge.node.statistics import DECAY, Measured, Measuring, input_products, kinds_of
from peermerge.node.workload import LoopWorkload
from peermerge.protocol.errors import ConfigError
from peermerge.protocol.limits import MAX_ATTACHMENT_BYTES, MAX_STATISTIC
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.statistics import Values, pack

from .worlds import Tied

CPU = torch.device("cpu")
MANIFEST = manifest_of([("weight", (2, 3), "float32", False), ("filters", (2, 2, 2), "float32", False)])


class Net(nn.Module):
    """Two linear layers and a convolution that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(2, 2, bias=False)
        self.filters = nn.Conv2d(2, 3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        result: torch.Tensor = self.last(self.drop(self.first(x)))
        return result


def world(
    kind: str, optimizer: type[torch.optim.Optimizer] | None = None, batches: list[torch.Tensor] | None = None
) -> tuple[Measuring, Parameters, LoopWorkload]:
    torch.manual_seed(0)
    model = Net()
    chosen = optimizer(model.parameters(), lr=0.1) if optimizer else None  # type: ignore[call-arg]
    tensors = live_tensors(model)
    params = Parameters(tensors, describe(model, tensors), CPU)
    workload = LoopWorkload(model, chosen, calibration=lambda: batches or [])
    return Measuring({kind}, workload, params), params, workload


def train(workload: LoopWorkload) -> None:
    assert workload._optimizer is not None
    torch.autograd.backward(workload.model(torch.ones(4, 3)).square().sum())
    workload._optimizer.step()


def read(measuring: Measuring, params: Parameters) -> dict[str, torch.Tensor]:
    """Return what merge methods would see, by the tensors' names."""
    ((kind, data),) = measuring.measure().items()
    opened = Measured.open(data, kind, params.manifest)
    return {spec.name: opened.tensor(t, CPU) for t, spec in enumerate(params.manifest.tensors) if t in opened}


def rank_one(square: torch.Tensor) -> torch.Tensor:
    matrix = square.reshape(len(square), -1)
    return (torch.outer(matrix.sum(1), matrix.sum(0)) / matrix.sum()).reshape(-1)


def test_second_moments_are_those_of_the_optimizer_by_rows_and_columns() -> None:
    measuring, params, workload = world("second_moment", torch.optim.Adam)
    train(workload)
    found = read(measuring, params)
    assert set(found) == {"first.weight", "last.weight"}, "no gradient ever reached the filters"
    for name, seen in found.items():
        torch.testing.assert_close(seen, rank_one(workload.second_moments()[name]))


def test_without_an_optimizers_averages_it_is_squared_progress_averaged_over_rounds() -> None:
    measuring, params, workload = world("second_moment", torch.optim.SGD)
    expected: dict[str, torch.Tensor] = {}
    for round_ in range(2):
        before = {name: tensor.detach().clone() for name, tensor in params.state_dict().items()}
        train(workload)
        for name, tensor in params.state_dict().items():
            square = (tensor.detach() - before[name]).square()
            expected[name] = DECAY * expected[name] + (1 - DECAY) * square if round_ else square
        found = read(measuring, params)
        params.collect()
    assert set(found) == {"first.weight", "last.weight", "filters.weight"}
    sums = found["first.weight"].view(2, 3).sum(1)
    torch.testing.assert_close(sums, expected["first.weight"].sum(1), rtol=1e-4, atol=1e-9)
    assert not found["filters.weight"].any()


def test_fisher_information_is_the_same_field_of_unit_scale_over_the_model() -> None:
    measuring, params, workload = world("fisher", torch.optim.Adam)
    train(workload)
    found = read(measuring, params)
    whole = torch.cat(list(found.values()))
    torch.testing.assert_close(whole.square().mean(), torch.ones(()))
    moments = rank_one(workload.second_moments()["first.weight"])
    torch.testing.assert_close(found["first.weight"] / found["first.weight"].max(), moments / moments.max())


def test_products_of_inputs_are_means_over_all_calibration_rows_in_evaluation_mode() -> None:
    batches = [torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 0.0, 1.0], [0.0, 1.0, 1.0]])]
    measuring, params, workload = world("gram", batches=batches)
    workload.model.train()
    found = read(measuring, params)
    inputs = torch.cat(batches)
    assert set(found) == {"first.weight", "last.weight"}
    torch.testing.assert_close(found["first.weight"], inputs.T @ inputs / 3)
    hidden = workload.model.get_submodule("first")(inputs)
    torch.testing.assert_close(found["last.weight"], hidden.T @ hidden / 3)
    assert workload.model.training
    assert not any(module._forward_pre_hooks for module in workload.model.modules())


def test_sequences_count_as_so_many_rows() -> None:
    layer = nn.Linear(3, 2)
    batch = torch.arange(12.0).reshape(2, 2, 3)
    rows = batch.reshape(4, 3)
    (values,) = input_products(layer, {0: layer}, [batch], CPU).values()
    expected = (rows.T @ rows / 4).tolist()
    assert values.tolist() == [expected[i][j] for i in range(3) for j in range(i + 1)]


def test_layers_may_be_called_by_keyword_and_calls_without_a_tensor_do_not_count() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.idle = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(None)
            result: torch.Tensor = self.layer(input=x)
            return result

    model, batch = Named(), torch.tensor([[1.0, 2.0, 3.0]])
    found = input_products(model, {0: model.layer, 1: model.idle}, [batch], CPU)
    assert set(found) == {0}
    assert found[0].tolist() == [1, 2, 4, 3, 6, 9]


def test_hooks_go_when_the_inputs_fail() -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        input_products(layer, {0: layer}, [torch.ones(1, 4)], CPU)
    assert not layer._forward_pre_hooks


def test_without_inputs_no_layer_has_products_and_a_warning_says_so() -> None:
    measuring, params, workload = world("gram")
    assert measuring.warnings == []
    assert read(measuring, params) == {}
    (warning,) = measuring.warnings
    assert "gram of no tensor" in warning
    assert "calibration" in warning
    workload._calibration = lambda: [torch.eye(3)]
    assert read(measuring, params)
    assert measuring.warnings == []


def test_a_model_that_is_one_layer_has_products() -> None:
    layer = nn.Linear(3, 2)
    tensors = live_tensors(layer)
    params = Parameters(tensors, describe(layer, tensors), CPU)
    measuring = Measuring({"gram"}, LoopWorkload(layer, calibration=lambda: [torch.eye(3)]), params)
    torch.testing.assert_close(read(measuring, params)["weight"], torch.eye(3) / 3)


def test_statistics_that_are_too_large_to_travel_are_refused_at_the_start() -> None:
    side = math.isqrt(MAX_ATTACHMENT_BYTES // 2)  # about half of side * side numbers of four bytes
    for columns, fits in ((side - 10, True), (side, False)):
        layer = nn.Linear(columns, 1)
        tensors = live_tensors(layer)
        params = Parameters(tensors, describe(layer, tensors), CPU)
        if fits:
            Measuring({"gram"}, LoopWorkload(layer), params)
        else:
            with pytest.raises(ConfigError, match="gram of this model"):
                Measuring({"gram"}, LoopWorkload(layer), params)


def test_tied_layers_have_no_products_of_their_own() -> None:
    model = Tied()
    tensors = live_tensors(model)
    params = Parameters(tensors, describe(model, tensors), CPU)
    workload = LoopWorkload(model, calibration=lambda: [torch.arange(6)])
    assert read(Measuring({"gram"}, workload, params), params) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_tensors_without_sound_statistics_are_left_out(value: float) -> None:
    measuring, params, workload = world("second_moment", torch.optim.Adam)
    train(workload)
    workload.second_moments()["last.weight"][0, 0] = value
    assert set(read(measuring, params)) == {"first.weight"}


def opened(kind: str, *tensors: list[float]) -> Measured:
    measured: dict[int, Values] = {t: np.array(values, np.float32) for t, values in enumerate(tensors)}
    return Measured.open(pack(kind.replace("_", "-"), measured, MANIFEST), kind, MANIFEST)


def test_row_and_column_sums_stand_for_their_product() -> None:
    found = opened("second_moment", [1, 3, 1, 1, 2]).tensor(0, CPU)
    assert found.tolist() == [0.25, 0.25, 0.5, 0.75, 0.75, 1.5]


@pytest.mark.parametrize("kind", ["second_moment", "fisher"])
def test_sums_of_nothing_are_zeros(kind: str) -> None:
    found = opened(kind, [0, 0, 0, 0, 0]).tensor(0, CPU)
    assert found.tolist() == [0] * 6


@pytest.mark.parametrize(
    "sums", [[1e18, 0, 1e-30, 0, 0], [1e18] * 5, [1e-30] * 5, [1e-45] * 5, [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
)
@pytest.mark.parametrize("kind", ["second_moment", "fisher"])
def test_sums_that_contradict_each_other_stay_finite(kind: str, sums: list[float]) -> None:
    assert bool(opened(kind, sums).tensor(0, CPU).isfinite().all())


@pytest.mark.parametrize("columns", [0.0, 1e-45])
@pytest.mark.parametrize("kind", ["second_moment", "fisher"])
def test_rows_that_no_column_bounds_stay_finite_beside_a_tiny_tensor(kind: str, columns: float) -> None:
    wild = opened(kind, [MAX_STATISTIC, 1, columns, 0, 0], [1e-45] * 6)
    seen = wild.tensor(0, CPU)
    assert bool(seen.isfinite().all())
    if not columns:
        assert not seen.any()


def test_triangles_stand_for_symmetric_matrices() -> None:
    found = opened("gram", [1, 2, 3, 4, 5, 6]).tensor(0, CPU)
    assert found.tolist() == [[1, 2, 4], [2, 3, 5], [4, 5, 6]]


def test_methods_say_what_must_be_measured() -> None:
    assert kinds_of(make_method("weighted-mean", {})) == frozenset()
    assert kinds_of(make_method("ota", {})) == {"second_moment"}


@pytest.mark.parametrize(
    ("needs", "scope", "says"), [({"gram", "moods"}, "tensor", "moods"), ({"gram"}, "global", "single tensors")]
)
def test_what_no_node_can_provide_is_refused(needs: set[str], scope: str, says: str) -> None:
    class Method:
        """Needs this."""

    method: Any = Method()
    method.needs, method.scope = frozenset(needs), scope
    with pytest.raises(ConfigError, match=says):
        kinds_of(method)


EXTREMES = st.sampled_from([0.0, 1e-45, 1e-38, 1e-12, 1.0, 1e9, MAX_STATISTIC])
HARSH: list[tuple[str, dict[str, Any]]] = [
    ("ota", {}),
    ("ota", {"power": 2.0, "epsilon": 0.0, "variant": "official"}),
    ("ota", {"power": 2.0, "normalise": "global", "density": 0.5}),
    ("fisher", {}),
    ("fisher", {"normalize": False, "floor": 0.0}),
    ("regmean", {"ratio": 1.0, "ridge": 0.0}),
]


@pytest.mark.parametrize(("name", "parameters"), HARSH)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_statistics_move_an_entry_by_more_than_its_weight(
    name: str, parameters: dict[str, Any], data: st.DataObject
) -> None:
    method, (spec, *_) = make_method(name, parameters), MANIFEST.tensors
    (kind,) = kinds_of(method)
    signs = st.sampled_from([-1.0, 1.0]) if kind == "gram" else st.just(1.0)
    rows = [[data.draw(EXTREMES) * data.draw(signs) for _ in range(6 if kind == "gram" else 5)] for _ in range(3)]
    for row in rows if kind == "gram" else []:
        row[0], row[2], row[5] = abs(row[0]), abs(row[2]), abs(row[5])
    seen = tuple(opened(kind, row).tensor(0, CPU) for row in rows)
    weights = (0.5, 0.25, 0.25)
    deltas = [torch.tensor([1.0, -2.0, 0.0, 1e-6, 50.0, -1.0]), torch.tensor([1.0, 2.0, 0.0, -1e-6, 50.0, 3.0])]
    moved = method.correct(deltas, Site(weights, (Piece("weight", spec.shape),), (0, 1, 2), statistics={kind: seen}))
    assert bool(moved.isfinite().all())
    assert bool((moved.abs() <= sum(delta.abs() * 0.25 for delta in deltas) * 1.001).all())
