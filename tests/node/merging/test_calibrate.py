import pytest
import torch

from peermerge.node.merging import Piece, Site, make_method
from peermerge.node.merging.calibrate import SingularValueCalibration
from peermerge.protocol.errors import ConfigError

from .matrix_cases import SHAPES, awkward


def diagonal(*values: float) -> torch.Tensor:
    return torch.diag(torch.tensor(values)).reshape(-1)


def calibrated(
    alpha: float, merged: torch.Tensor, deltas: list[torch.Tensor], shape: tuple[int, ...], weights: list[float] | None
) -> torch.Tensor:
    site = Site(tuple(weights or [1.0] * len(deltas)), (Piece("weight", shape),))
    return SingularValueCalibration(alpha).apply(merged, deltas, site)


def test_a_direction_that_all_share_is_not_counted_several_times() -> None:
    """Both moved the first direction by 2, one the second by 1; the sum has 4 and 1."""
    deltas = [diagonal(2.0, 0.0), diagonal(2.0, 1.0)]
    result = calibrated(1.0, deltas[0] + deltas[1], deltas, (2, 2), None)
    torch.testing.assert_close(result, diagonal(2.0, 1.0))


def test_alpha_is_the_least_that_a_contributor_counts() -> None:
    deltas = [diagonal(2.0, 0.0), diagonal(2.0, 1.0)]
    result = calibrated(0.5, 0.5 * (deltas[0] + deltas[1]), deltas, (2, 2), None)
    torch.testing.assert_close(result, diagonal(2.0 / 1.0, 0.5 / 0.5))


def test_contributors_count_by_their_weights() -> None:
    deltas = [diagonal(2.0, 1.0), diagonal(2.0, 0.0)]
    result = calibrated(0.5, diagonal(4.0, 2.0), deltas, (2, 2), [3.0, 1.0])
    torch.testing.assert_close(result, diagonal(4.0 / 2.0, 2.0 / ((3 * 2.0 + 0.5) / 4)))


def test_without_an_alpha_what_goes_against_everybody_stays() -> None:
    result = calibrated(0.0, diagonal(-1.0, 1.0), [diagonal(1.0, 2.0)], (2, 2), None)
    torch.testing.assert_close(result, diagonal(-1.0, 2.0))


@pytest.mark.parametrize("shape", [(4,), (), (2, 1, 2), (0, 3)])
def test_tensors_that_are_no_matrices_stay(shape: tuple[int, ...]) -> None:
    merged = torch.ones(shape).reshape(-1)
    assert torch.equal(calibrated(1.0, merged.clone(), [2 * merged, merged], shape, None), merged)


@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_matrices_stay_finite(shape: tuple[int, int]) -> None:
    for alpha in (0.0, 1.0):
        for deltas in awkward(shape).values():
            assert bool(calibrated(alpha, sum(deltas, torch.zeros(())), deltas, shape, None).isfinite().all())


def test_every_tensor_of_a_global_merge_is_calibrated_by_itself() -> None:
    pieces = (Piece("a", (2, 2)), Piece("b", (2,)), Piece("c", (2, 2)))
    deltas = [torch.cat([diagonal(2.0, 0.0), torch.ones(2), diagonal(1.0, 3.0)])] * 2
    result = SingularValueCalibration().apply(deltas[0] * 2, deltas, Site((1.0, 1.0), pieces))
    torch.testing.assert_close(result, torch.cat([diagonal(2.0, 0.0), 2 * torch.ones(2), diagonal(1.0, 3.0)]))


def test_it_follows_any_method() -> None:
    method = make_method("task-arithmetic", {"scale": 0.3}, [{"step": "svc", "alpha": 0.1}])
    deltas = [diagonal(2.0, 1.0)] * 2
    torch.testing.assert_close(method.merge(deltas, Site((1.0, 1.0), (Piece("a", (2, 2)),))), diagonal(2.0, 1.0))


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_impossible_alphas_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        SingularValueCalibration(alpha)
