import math

import pytest
import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod, Piece, Site
from peermerge.node.merging.spherical import MultiSlerp, NuSlerp, Slerp
from peermerge.protocol.errors import ConfigError

from .places import draw, merged


def merge(
    method: MergeMethod,
    rows: list[list[float]],
    *,
    weights: list[float] | None = None,
    base: list[float] | None = None,
    shape: tuple[int, ...] | None = None,
) -> list[float]:
    deltas = [torch.tensor(row) for row in rows]
    site = Site(
        tuple(weights or [1.0] * len(rows)),
        (Piece("weight", shape if shape is not None else (len(rows[0]),)),),
        base=None if base is None else torch.tensor(base),
    )
    result: list[float] = method.merge(deltas, site).tolist()
    return result


HALF = math.sqrt(0.5)


@pytest.mark.parametrize(("t", "point"), [(0.0, (1.0, 0.0)), (0.5, (HALF, HALF)), (1.0, (0.0, 1.0))])
def test_slerp_walks_the_quarter_circle_from_base_to_model(t: float, point: tuple[float, float]) -> None:
    delta = merge(Slerp(t), [[-1.0, 1.0]], base=[1.0, 0.0])
    assert [1.0 + delta[0], delta[1]] == pytest.approx(point, abs=1e-6)


def test_slerp_keeps_the_lengths_of_base_and_model() -> None:
    # theta = (0, 2): the factors are those of unit vectors, sin 45 / sin 90 each.
    assert merge(Slerp(0.5), [[-1.0, 2.0]], base=[1.0, 0.0]) == pytest.approx([HALF - 1, 2 * HALF])


@pytest.mark.parametrize("other", [[3.0, 4.0], [-3.0, -4.0]], ids=["parallel", "opposite"])
def test_slerp_goes_straight_between_vectors_on_one_line(other: list[float]) -> None:
    base = [1.5, 2.0]
    delta = [o - b for o, b in zip(other, base, strict=True)]
    assert merge(Slerp(0.25), [delta], base=base) == pytest.approx([0.25 * d for d in delta])


def test_slerp_goes_straight_from_the_angle_that_is_asked_for() -> None:
    # 60 degrees: cos = 0.5.
    delta = [0.5 - 1.0, math.sqrt(0.75)]
    assert merge(Slerp(0.5, straight=0.4), [delta], base=[1.0, 0.0]) == pytest.approx([d / 2 for d in delta])
    arc = merge(Slerp(0.5, straight=0.6), [delta], base=[1.0, 0.0])
    assert [1 + arc[0], arc[1]] == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


def test_slerp_with_every_angle_on_the_arc_is_finite_for_equal_vectors() -> None:
    assert merge(Slerp(0.3, straight=1.0), [[0.0, 0.0]], base=[1.0, 0.0]) == pytest.approx([0.0, 0.0], abs=1e-7)


def test_slerp_counts_a_zero_vector_as_orthogonal() -> None:
    assert merge(Slerp(0.5), [[3.0]], base=[0.0]) == pytest.approx([3 * HALF])


def test_slerp_of_several_models_is_the_mean_of_each_alone() -> None:
    rows, base = [[-1.0, 1.0], [0.5, 0.0]], [1.0, 0.0]
    alone = [merge(Slerp(0.3), [row], base=base) for row in rows]
    mean = [(a + 3 * b) / 4 for a, b in zip(*alone, strict=True)]
    assert merge(Slerp(0.3), rows, weights=[1.0, 3.0], base=base) == pytest.approx(mean)


@pytest.mark.parametrize(("key", "value"), [("t", -0.1), ("t", 1.1), ("t", math.nan), ("straight", 0.0)])
def test_slerp_refuses_points_off_the_arc(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        Slerp(**{key: value})


def test_slerp_says_that_it_needs_the_base() -> None:
    with pytest.raises(ValueError, match="base"):
        merge(Slerp(), [[1.0]])


def test_nuslerp_takes_the_second_weights_share_of_the_arc() -> None:
    rows = [[2.0, 0.0], [0.0, 2.0]]
    angle = 0.75 * math.pi / 2
    expected = [2 * math.cos(angle), 2 * math.sin(angle)]
    assert merge(NuSlerp(), rows, weights=[1.0, 3.0]) == pytest.approx(expected)


def test_nuslerp_meets_in_the_middle_where_weights_cancel_out() -> None:
    assert merge(NuSlerp(), [[1.0, 0.0], [0.0, 1.0]], weights=[1.0, -1.0]) == pytest.approx([HALF, HALF])


def test_nuslerp_goes_straight_between_vectors_on_one_line() -> None:
    assert merge(NuSlerp(), [[1.0, 0.0], [3.0, 0.0]]) == [2.0, 0.0]
    assert merge(NuSlerp(), [[1.0, 0.0], [-1.0, 0.0]], weights=[1.0, 3.0]) == [-0.5, 0.0]


def test_nuslerp_of_rows_and_of_columns_turns_each_by_itself() -> None:
    # The columns are orthogonal pairs or equal ones, and so are the rows of the transposed matrices.
    first, second = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    expected = torch.tensor([[HALF, 2.0], [HALF, 1.0]])
    by_column = merge(
        NuSlerp(flatten=False, row_wise=True), [m.flatten().tolist() for m in (first, second)], shape=(2, 2)
    )
    assert by_column == pytest.approx(expected.flatten().tolist())
    by_row = merge(NuSlerp(flatten=False), [m.T.flatten().tolist() for m in (first, second)], shape=(2, 2))
    assert by_row == pytest.approx(expected.T.flatten().tolist())


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (2, 3, 1, 2)], ids=str)
def test_nuslerp_of_vectors_keeps_the_shape_of_any_tensor(shape: tuple[int, ...], row_wise: bool) -> None:
    result = merged(NuSlerp(flatten=False, row_wise=row_wise), draw(2, shape, 1), "base", shape=shape)
    assert result.shape == (math.prod(shape),)
    assert bool(result.isfinite().all())


def test_nuslerp_takes_further_models_each_against_all_before() -> None:
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    # The third has a third of the weight: 30 of the 90 degrees from the middle of the first two.
    side = HALF * math.cos(math.pi / 6)
    assert merge(NuSlerp(), rows) == pytest.approx([side, side, 0.5])


def test_nuslerp_of_one_model_is_that_model() -> None:
    assert merge(NuSlerp(), [[1.0, -2.0]], weights=[0.5]) == [1.0, -2.0]


@pytest.mark.parametrize("method", [NuSlerp(), MultiSlerp()])
def test_arcs_need_a_weight_for_each(method: MergeMethod) -> None:
    with pytest.raises(ValueError, match="weights"):
        merge(method, [[1.0], [2.0]], weights=[1.0])


def test_multislerp_is_the_mean_direction_at_the_mean_length() -> None:
    rows = [[2.0, 0.0], [0.0, 4.0]]
    # The mean of the unit vectors points to 45 degrees; lengths 2 and 4 have the mean 3.
    assert merge(MultiSlerp(), rows) == pytest.approx([3 * HALF, 3 * HALF])


def test_multislerp_weighs_directions_and_lengths() -> None:
    rows = [[2.0, 0.0], [0.0, 1.0]]
    # (3, 4) / 7 has the direction (0.6, 0.8); the mean length is (3 * 2 + 4 * 1) / 7.
    assert merge(MultiSlerp(), rows, weights=[3.0, 4.0]) == pytest.approx([6 / 7, 8 / 7])
    assert merge(MultiSlerp(normalize=False), rows, weights=[3.0, 4.0]) == pytest.approx([6.0, 8.0])


@pytest.mark.parametrize("rows", [[[1.0, 0.0], [-2.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -4.0]]])
def test_multislerp_takes_the_mean_where_directions_cancel_out(rows: list[list[float]]) -> None:
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert merge(MultiSlerp(), rows) == pytest.approx(mean)


def test_multislerp_eps_says_when_directions_cancel_out() -> None:
    rows = [[1.0, 0.1], [-1.0, 0.1]]
    assert merge(MultiSlerp(), rows) == pytest.approx([0.0, math.sqrt(1.01)], abs=1e-6)
    assert merge(MultiSlerp(eps=0.5), rows) == pytest.approx([0.0, 0.1])


def test_multislerp_of_one_model_is_that_model_whatever_its_weight() -> None:
    assert merge(MultiSlerp(normalize=False), [[1.0, -2.0]], weights=[0.5]) == [1.0, -2.0]


@pytest.mark.parametrize("eps", [0.0, -1e-8, math.nan])
def test_multislerp_refuses_to_divide_by_nothing(eps: float) -> None:
    with pytest.raises(ConfigError, match="eps"):
        MultiSlerp(eps=eps)


@pytest.mark.parametrize("method", [NuSlerp(), MultiSlerp()])
def test_arcs_are_no_shorter_than_their_ends(method: MergeMethod) -> None:
    def norm(x: Tensor) -> float:
        return float(x.norm())

    start, end = draw(2, 500, 7)
    short = min(norm(start), norm(end))
    assert norm(merged(method, [start, end], "base")) > 0.99 * short > norm((start + end) / 2)
