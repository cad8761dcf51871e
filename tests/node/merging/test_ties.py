import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Reference
from peermerge.node.merging.ties import Ties, elect, trim


def merge(method: Ties, rows: list[list[float]], weights: list[float], reference: Reference) -> list[float]:
    result: list[float] = method.merge(
        [torch.tensor(row) for row in rows], weights, reference=reference, seeds=[]
    ).tolist()
    return result


@pytest.mark.parametrize(
    ("density", "kept"), [(0.2, [0, 0, 0, 0, 5.0]), (0.59, [0, 0, 0, -4.0, 5.0]), (0.01, [0, 0, 0, 0, 5.0])]
)
def test_trimming_keeps_the_whole_part_of_the_density_and_at_least_one(density: float, kept: list[float]) -> None:
    assert trim(torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0]), density).tolist() == kept


def test_density_one_keeps_all() -> None:
    values = [1.0, 0.0, -3.0]
    assert merge(Ties(density=1.0), [values], [1.0], "base") == values


def test_the_example_of_the_paper_trim_elect_and_disjoint_mean() -> None:
    rows = [[4.0, -3.0, 0.1, 2.0], [2.0, 1.0, 5.0, -0.1], [-1.0, 0.5, 3.0, -4.0]]
    # Trimmed to two: [4, -3, 0, 0], [2, 0, 5, 0], [0, 0, 3, -4]; every entry's agreeing votes are averaged.
    assert merge(Ties(density=0.5), rows, [1 / 3] * 3, "base") == pytest.approx([3.0, -3.0, 4.0, -4.0])


def test_the_heavier_side_wins_and_the_other_does_not_count() -> None:
    rows = [[1.0], [2.0], [-2.5]]
    assert merge(Ties(density=1.0), rows, [1 / 3] * 3, "base") == pytest.approx([1.5])
    assert merge(Ties(density=1.0), rows, [0.1, 0.1, 0.8], "base") == pytest.approx([-2.5])


def test_weights_count_in_the_disjoint_mean() -> None:
    assert merge(Ties(density=1.0), [[1.0], [4.0]], [0.75, 0.25], "base") == pytest.approx([1.75])


def test_equal_masses_elect_plus_against_the_base_and_nobody_against_oneself() -> None:
    rows = [[2.0, 0.0], [-2.0, 0.0]]
    assert merge(Ties(density=1.0), rows, [0.5, 0.5], "base") == [2.0, 0.0]
    assert merge(Ties(density=1.0), rows, [0.25, 0.25], "own") == [0.0, 0.0]


def test_relative_to_oneself_agreeing_votes_are_summed_by_weight() -> None:
    rows = [[4.0, 4.0], [8.0, 0.0], [-1.0, 0.0]]
    assert merge(Ties(density=1.0), rows, [0.25] * 3, "own") == [3.0, 1.0]


def test_relative_to_oneself_the_rule_is_the_same_for_plus_and_minus() -> None:
    random = torch.Generator().manual_seed(0)
    votes = [torch.randint(-2, 3, (100,), generator=random).float() for _ in range(4)]
    mirrored = elect([-vote for vote in votes], [0.2] * 4, "own")
    assert torch.equal(mirrored, -elect(votes, [0.2] * 4, "own"))


def test_the_scale_multiplies_the_result() -> None:
    assert merge(Ties(density=1.0, scale=3.0), [[1.0, -2.0]], [1.0], "base") == [3.0, -6.0]


def test_the_scope_is_a_choice() -> None:
    assert Ties().scope == "tensor"
    assert Ties(scope="global").scope == "global"


def drift(reference: Reference, rounds: int = 20) -> float:
    """Return how far 8 nodes in a ring move their mean by merging alone, as a share of its norm."""
    random = torch.Generator().manual_seed(1)
    common = torch.randn(2000, generator=random)
    states = [common + torch.randn(2000, generator=random) for _ in range(8)]
    before = torch.stack(states).mean(0)
    for _ in range(rounds):
        states = [_step(states, i, reference) for i in range(8)]
    return float((torch.stack(states).mean(0) - before).norm() / before.norm())


def _step(states: list[Tensor], i: int, reference: Reference) -> Tensor:
    own, around = states[i], [states[i - 1], states[(i + 1) % 8]]
    if reference == "base":
        return Ties(density=0.2).merge([own, *around], [1 / 3] * 3, reference="base", seeds=[])
    correction = Ties(density=0.2).merge([peer - own for peer in around], [1 / 3] * 2, reference="own", seeds=[])
    return own + correction


def test_rounds_relative_to_the_base_carry_the_mean_away_and_relative_to_oneself_hardly() -> None:
    assert drift("base") > 0.8
    assert drift("own") < 0.08
