import pytest
import torch
from torch import Tensor

from peermerge.node.merging.della import Della, DellaLinear, keep_probabilities
from peermerge.protocol.errors import ConfigError

from .places import draw, merged

ROWS, WIDTH = 4000, 5


def probabilities(rows: list[list[float]], density: float = 0.5, epsilon: float = 0.2) -> list[list[float]]:
    x = torch.tensor(rows)
    found: list[list[float]] = keep_probabilities(x.view(-1), x.shape, density, epsilon).view(x.shape).tolist()
    return found


def ranked(signs: float = 1.0) -> Tensor:
    """Return rows whose entries have ranks 2, 5, 1, 4, 3."""
    return (torch.tensor([2.0, 5.0, 1.0, 4.0, 3.0]) * signs).repeat(ROWS)


def test_probabilities_grow_evenly_with_the_rank_in_the_row() -> None:
    found = probabilities([[0.1, -5.0, 2.0], [-3.0, 2.0, 0.0]])
    assert found == [pytest.approx([0.3, 0.7, 0.5]), pytest.approx([0.7, 0.5, 0.3])]


def test_equal_magnitudes_rank_by_index() -> None:
    assert probabilities([[1.0, -1.0, 1.0]])[0] == pytest.approx([0.3, 0.5, 0.7])


def test_zeros_of_either_sign_are_equal() -> None:
    assert probabilities([[0.0, -0.0, 0.0]])[0] == pytest.approx([0.3, 0.5, 0.7])


def test_a_single_entry_is_kept_with_the_density() -> None:
    assert probabilities([[3.0], [1.0]]) == [[0.5], [0.5]]
    assert keep_probabilities(torch.ones(1), (), 0.5, 0.2).tolist() == [0.5]


def test_a_vector_is_one_row_and_a_convolution_is_ranked_along_its_inputs() -> None:
    vector = torch.tensor([1.0, 4.0, 2.0, 3.0])
    assert keep_probabilities(vector, (4,), 0.5, 0.3).tolist() == pytest.approx([0.2, 0.8, 0.4, 0.6])
    assert keep_probabilities(vector, (1, 2, 2), 0.5, 0.3).tolist() == pytest.approx([0.2, 0.8, 0.8, 0.2])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_of_nothing_there_are_no_probabilities(shape: tuple[int, ...]) -> None:
    assert keep_probabilities(torch.empty(0), shape, 0.5, 0.2).shape == (0,)
    assert merged(Della(), [torch.empty(0)], "base", shape=shape).shape == (0,)


@pytest.mark.parametrize("shape", [(300,), (20, 15), (20, 5, 3), (10, 3, 5, 2)])
def test_a_slow_ranking_gives_the_same_probabilities(shape: tuple[int, ...]) -> None:
    delta = draw(1, shape, 2)[0]
    x = delta.view(1, -1) if len(shape) == 1 else delta.view(shape)
    ranks = x.abs().argsort(dim=1, stable=True).argsort(dim=1)
    expected = 0.4 - 0.1 + 0.2 * ranks / (x.shape[1] - 1)
    torch.testing.assert_close(keep_probabilities(delta, shape, 0.4, 0.1), expected.view(-1))


def test_entries_survive_as_often_as_their_probability_says_and_are_divided_by_it() -> None:
    result = merged(DellaLinear(density=0.5, epsilon=0.2), [ranked(-1.0)], "base", shape=(ROWS, WIDTH), seeds=[1])
    columns = result.view(ROWS, WIDTH)
    expected = torch.tensor([0.4, 0.7, 0.3, 0.6, 0.5])
    torch.testing.assert_close((columns != 0).float().mean(0), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(columns.min(0).values, -torch.tensor([2.0, 5.0, 1.0, 4.0, 3.0]) / expected)


def test_survivors_may_stay_as_they_are_or_take_over_the_sum_of_magnitudes() -> None:
    x = ranked()
    plain, scaled = (
        merged(DellaLinear(rescale=rescale), [x], "base", shape=(ROWS, WIDTH), seeds=[1]) for rescale in ("none", "l1")
    )
    assert set(plain.tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    torch.testing.assert_close(scaled, plain * (x.sum() / plain.sum()))


def test_survivors_elect_the_sign() -> None:
    votes = [ranked(-3.0), ranked()]
    found = merged(Della(rescale="none"), votes, "base", shape=(ROWS, WIDTH), seeds=[1, 2]).view(ROWS, WIDTH)
    assert set(found[:, 1].tolist()) == {-15.0, 5.0, 0.0}


def test_relative_to_oneself_nothing_is_rescaled() -> None:
    for method in (Della(), DellaLinear()):
        result = merged(method, [ranked()], "own", shape=(ROWS, WIDTH), weights=[0.25], seeds=[1])
        assert set(result.view(ROWS, WIDTH)[:, 0].tolist()) == {0.0, 0.5}


@pytest.mark.parametrize(("shape", "length"), [((7, 3, 3, 2), 126), ((1, 19), 19), ((19, 1), 19), ((), 1)])
def test_without_dropping_the_plain_rule_remains(shape: tuple[int, ...], length: int) -> None:
    deltas = draw(2, length, 3)
    assert torch.equal(
        merged(DellaLinear(density=1.0, scale=2.0), deltas, "base", shape=shape), 2 * (deltas[0] + deltas[1])
    )


@pytest.mark.parametrize("shape", [(60, 1500), (3, 40_000), (90_001,), (5, 90, 40, 5)])
def test_threads_make_no_difference(shape: tuple[int, ...]) -> None:
    deltas = draw(2, shape, 6)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(merged(Della(), deltas, "base", shape=shape))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_seeds_shared_by_the_ends_of_an_edge_keep_the_mean() -> None:
    a, b = draw(2, (50, 40), 9)
    to_b, to_a = (merged(DellaLinear(), [d], "own", shape=(50, 40), seeds=[3]) for d in (b - a, a - b))
    torch.testing.assert_close(to_b, -to_a)
    assert bool(to_b.any())


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.9, 0.2), (0.5, -0.1), (0.5, float("nan"))])
@pytest.mark.parametrize("build", [Della, DellaLinear])
def test_probabilities_outside_their_bounds_are_refused(
    build: type[Della | DellaLinear], density: float, epsilon: float
) -> None:
    with pytest.raises(ConfigError, match="give an epsilon"):
        build(density=density, epsilon=epsilon)
