import math

import pytest
import torch
from torch import Tensor

from peermerge.node.merging.karcher import Karcher
from peermerge.protocol.errors import ConfigError

from .places import merged


def merge(method: Karcher, *rows: list[float], weights: list[float] | None = None) -> Tensor:
    return merged(method, [torch.tensor(row) for row in rows], "base", weights=weights)


def close(result: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_two_directions_meet_in_the_middle_at_their_mean_length() -> None:
    close(merge(Karcher(), [2.0, 0.0], [0.0, 4.0]), [3 * math.sqrt(0.5)] * 2)


def test_weights_divide_the_angle_where_the_chord_does_not() -> None:
    angle = 0.75 * math.pi / 2
    close(merge(Karcher(), [1.0, 0.0], [0.0, 1.0], weights=[1.0, 3.0]), [math.cos(angle), math.sin(angle)])


def test_without_iterations_the_chord_divides_the_angle() -> None:
    close(merge(Karcher(max_iter=0), [1.0, 0.0], [0.0, 1.0], weights=[3.0, 4.0]), [0.6, 0.8])


def test_logarithms_cancel_out_at_the_result() -> None:
    random = torch.Generator().manual_seed(0)
    rows = [torch.randn(20, generator=random) + 1 for _ in range(5)]
    mean = merged(Karcher(max_iter=50, tol=1e-6), rows, "base")
    mean /= mean.norm()
    pull = torch.zeros(20)
    for row in rows:
        unit = row / row.norm()
        angle = (mean @ unit).acos()
        pull += angle / angle.sin() * (unit - (mean @ unit) * mean)
    assert float(pull.norm()) < 1e-5


def test_vectors_without_a_direction_count_in_the_length_alone() -> None:
    close(merge(Karcher(), [3.0, 0.0], [0.0, 0.0], [0.0, 3.0]), [math.sqrt(2.0)] * 2)
    close(merge(Karcher(tol=0.5), [3.0, 0.0], [0.0, 0.3]), [1.65, 0.0])


def test_directions_that_cancel_out_start_at_the_first_that_is_one() -> None:
    close(merge(Karcher(), [0.0], [2.0], [-4.0]), [2.0])
    close(merge(Karcher(), [0.0], [-4.0], [2.0]), [-2.0])


def test_nothing_but_zeros_stays_zero() -> None:
    assert merge(Karcher(), [0.0, 0.0], [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_weights_that_cancel_out_leave_a_finite_result() -> None:
    assert merge(Karcher(), [1.0, 0.0], [0.0, 1.0], weights=[1.0, -1.0]).isfinite().all()


def test_one_model_alone_stays_what_it_is() -> None:
    assert merge(Karcher(), [1.0, -2.0], weights=[0.3]).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(("key", "value"), [("max_iter", -1), ("tol", 0.0), ("tol", math.nan)])
def test_iterations_must_end(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        Karcher(**{key: value})  # type: ignore[arg-type]
