import math

import pytest
import torch

from peermerge.node.merging import Reference
from peermerge.node.merging.stock import ModelStock

from .places import draw, merged


def merge(method: ModelStock, *rows: list[float], shape: tuple[int, ...] | None = None) -> list[float]:
    result: list[float] = merged(method, [torch.tensor(row) for row in rows], "base", shape=shape).tolist()
    return result


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_two_models_at_sixty_degrees_go_two_thirds_of_the_way() -> None:
    # n = 2, cos = 1/2: t = 1 / 1.5; the mean is (0.75, sin 60 / 2).
    assert merge(ModelStock(), at(0), at(60)) == pytest.approx([0.5, math.sqrt(0.75) / 3])


def test_models_that_agree_are_averaged_and_orthogonal_ones_come_to_nothing() -> None:
    assert merge(ModelStock(), [1.0, 2.0], [2.0, 4.0]) == pytest.approx([1.5, 3.0])
    assert merge(ModelStock(), [1.0, 0.0], [0.0, 1.0]) == [0.0, 0.0]


def test_models_as_opposed_as_they_can_be_leave_the_base() -> None:
    assert merge(ModelStock(), [1.0, 2.0], [-2.0, -4.0]) == [0.0, 0.0]
    # Two pairs: cosines 1 twice and -1 four times, in the mean -1 / 3 = -1 / (n - 1).
    assert merge(ModelStock(), [1.0], [1.0], [-1.0], [-1.0]) == [0.0]


def test_libraries_average_cosines_or_angles() -> None:
    rows = [at(0), at(0), at(90)]
    mean = [2 / 3, 1 / 3]
    cosine = (1 + 0 + 0) / 3
    t = 3 * cosine / (1 + 2 * cosine)
    assert merge(ModelStock(), *rows) == pytest.approx([t * m for m in mean])
    cosine = math.cos(math.radians(60))
    t = 3 * cosine / (1 + 2 * cosine)
    assert merge(ModelStock("fusion_bench"), *rows) == pytest.approx([t * m for m in mean], abs=1e-6)


def test_libraries_guard_short_vectors_differently() -> None:
    # The product of norms is 1e-8: a hundredth of one floor, and as much as the other's addend.
    rows = [1e-4], [1e-4]
    for variant, cosine in (("mergekit", 0.01), ("fusion_bench", 0.5)):
        share = merge(ModelStock(variant), *rows)[0] / 1e-4  # type: ignore[arg-type]
        assert share == pytest.approx(2 * cosine / (1 + cosine), rel=2e-3)


def test_every_row_has_a_share_of_its_own() -> None:
    rows = [[1.0, 0.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0]]
    assert merge(ModelStock(filter_wise=True), *rows, shape=(2, 2)) == pytest.approx([2.0, 0.0, 0.0, 0.0], abs=1e-6)
    assert merge(ModelStock(), *rows, shape=(2, 2))[2] != 0


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
def test_a_vector_is_one_row(shape: tuple[int, ...]) -> None:
    deltas = draw(3, shape, 1)
    by_row = merged(ModelStock(filter_wise=True), deltas, "base", shape=shape)
    torch.testing.assert_close(by_row, merged(ModelStock(), deltas, "base", shape=shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reference", ["own", "base"])
@pytest.mark.parametrize("variant", ["mergekit", "fusion_bench"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,), (4, 1), (2, 3, 1, 2)], ids=str)
def test_rows_of_any_tensor_keep_its_length(shape: tuple[int, ...], variant: str, reference: Reference) -> None:
    method = ModelStock(variant, filter_wise=True)  # type: ignore[arg-type]
    result = merged(method, draw(3, shape, 2), reference, shape=shape)
    assert result.shape == (math.prod(shape),)
    assert bool(result.isfinite().all())


def test_weights_count_in_the_mean_and_not_in_the_angle() -> None:
    result = merged(ModelStock(), [torch.tensor(at(0)), torch.tensor(at(60))], "base", weights=[3.0, 1.0])
    assert result.tolist() == pytest.approx([2 / 3 * (0.75 + 0.125), math.sqrt(0.75) / 6])


def test_one_model_alone_stays_what_it_is() -> None:
    assert merge(ModelStock(), [1.0, -2.0]) == [1.0, -2.0]


def test_relative_to_oneself_disagreeing_neighbours_do_not_move_one() -> None:
    assert merged(ModelStock(), [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], "own").tolist() == [0.0, 0.0]


def test_the_base_is_needed_only_where_rounding_is_to_be_the_reference_s() -> None:
    assert ModelStock().needs == frozenset()
    assert ModelStock().sparse
    for method in (ModelStock(filter_wise=True), ModelStock("fusion_bench")):
        assert method.needs == {"base"}
        assert not method.sparse
