import pytest
import torch
from torch import Tensor

from peermerge.node.merging.linalg import adam, complete_spectrum, isometry, spectrum

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 7), (7, 1), (1, 1)]


def drawn(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_multiply_to_the_matrix_and_are_orthonormal(shape: tuple[int, int]) -> None:
    matrix, rank = drawn(shape), min(shape)
    u, s, vh = spectrum(matrix)
    torch.testing.assert_close((u * s @ vh).float(), matrix)
    torch.testing.assert_close(u.mT @ u, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(vh @ vh.mT, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(s.float(), torch.linalg.svdvals(matrix))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_zeros_has_no_directions(shape: tuple[int, int]) -> None:
    assert all(not bool(factor.any()) for factor in spectrum(torch.zeros(shape)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_a_matrix_without_entries_has_empty_factors(shape: tuple[int, int]) -> None:
    u, s, vh = spectrum(torch.zeros(shape))
    assert (u.shape, s.shape, vh.shape) == ((shape[0], 0), (0,), (0, shape[1]))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_directions_that_a_low_rank_lacks_are_zero(shape: tuple[int, int]) -> None:
    u, s, vh = spectrum(drawn((shape[0], 2)) @ drawn((2, shape[1]), 1))
    assert (s != 0).tolist() == [True, True] + [False] * (min(shape) - 2)
    assert not bool(u[:, 2:].any())
    assert not bool(vh[2:].any())


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_tiny_and_huge_entries_do_not_vanish_in_their_squares(size: float) -> None:
    matrix = drawn((3, 5)) * size
    u, s, vh = spectrum(matrix)
    torch.testing.assert_close((u * s @ vh).float() / size, matrix / size)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_isometry_keeps_directions_and_makes_them_one_long(shape: tuple[int, int]) -> None:
    matrix = drawn(shape)
    torch.testing.assert_close(isometry(matrix).float(), isometry(matrix, complete_spectrum))
    torch.testing.assert_close(spectrum(isometry(matrix))[1], torch.ones(min(shape), dtype=torch.float64))


def test_a_descent_is_that_of_torch() -> None:
    goal, start = drawn((3, 4)), drawn((3, 4), 1)
    point = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([point], lr=0.1)
    for _ in range(20):
        point.grad = 2 * (point.detach() - goal)
        optimiser.step()
    torch.testing.assert_close(adam(start, lambda x: 2 * (x - goal), 20, 0.1), point.detach())


def test_a_descent_without_steps_stays_and_never_touches_its_start() -> None:
    start = torch.ones(2, 2)
    assert torch.equal(adam(start, lambda x: x, 0, 0.1), start)
    adam(start, lambda x: x, 3, 0.1)
    assert torch.equal(start, torch.ones(2, 2))
