import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Reference, Site, make_method
from peermerge.node.merging.ties import TO_ONESELF, Aggregate, Election, Ties, Variant, elect
from peermerge.protocol.errors import ConfigError

from .places import draw, merged


def merge(method: Ties, rows: list[list[float]], weights: list[float], reference: Reference) -> list[float]:
    result: list[float] = merged(method, [torch.tensor(row) for row in rows], reference, weights=weights).tolist()
    return result


@pytest.mark.parametrize(
    ("density", "kept"), [(0.2, [0, 0, 0, 0, 5.0]), (0.59, [0, 0, 0, -4.0, 5.0]), (0.01, [0, 0, 0, 0, 5.0])]
)
def test_trimming_keeps_the_whole_part_of_the_density_and_at_least_one(density: float, kept: list[float]) -> None:
    assert merge(Ties(density=density), [[1.0, -2.0, 3.0, -4.0, 5.0]], [1.0], "base") == kept


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
    mirrored = elect([-vote for vote in votes], [0.2] * 4, TO_ONESELF)
    assert torch.equal(mirrored, -elect(votes, [0.2] * 4, TO_ONESELF))


@pytest.mark.parametrize("variant", ["mergekit", "official", "merge_llm", "peft", "peft-frequency"])
def test_relative_to_oneself_equal_masses_move_nobody_in_any_variant(variant: Variant) -> None:
    assert merge(Ties(density=1.0, variant=variant), [[2.0, 1.0], [-2.0, 1.0]], [0.25] * 2, "own") == [0.0, 0.5]


def test_the_scale_multiplies_the_result() -> None:
    assert merge(Ties(density=1.0, scale=3.0), [[1.0, -2.0]], [1.0], "base") == [3.0, -6.0]


@pytest.mark.parametrize(("aggregate", "expected"), [("mean", 3.0), ("sum", 6.0), ("max", 5.0)])
def test_votes_that_agree_are_averaged_summed_or_the_largest_is_taken(aggregate: Aggregate, expected: float) -> None:
    rows = [[5.0, -5.0], [1.0, -1.0], [-2.0, 2.0]]
    assert merge(Ties(density=1.0, aggregate=aggregate), rows, [1.0] * 3, "base") == [expected, -expected]


def test_negative_weights_turn_votes_around_and_shares_that_cancel_out_are_not_divided_by() -> None:
    assert merge(Ties(density=1.0), [[1.0], [-3.0]], [1.0, -1.0], "base") == [4.0]
    assert merge(Ties(density=1.0), [[1.0], [-3.0]], [1.0, -0.5], "base") == [5.0]


def test_opposite_votes_cancel_out_exactly_whatever_their_weight() -> None:
    odd = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    result = elect([odd, -odd], [0.3, 0.3])
    torch.testing.assert_close(result, odd.abs())


@pytest.mark.parametrize(
    ("variant", "density", "kept"),
    [
        ("mergekit", 0.5, [0, 0, 3.0, 3.0, 0, 4.0]),
        ("official", 0.34, [0, 0, 3.0, 3.0, -3.0, 4.0]),
        ("official", 0.1, [0, 0, 0, 0, 0, 4.0]),
        ("official", 1.0, [1.0, 2.0, 3.0, 3.0, -3.0, 4.0]),
        ("merge_llm", 0.5, [0, 0, 3.0, 3.0, -3.0, 4.0]),
        ("merge_llm", 0.8, [1.0, 2.0, 3.0, 3.0, -3.0, 4.0]),
        ("merge_llm", 0.0001, [0, 0, 3.0, 3.0, -3.0, 4.0]),
        ("peft", 0.5, [0, 0, 3.0, 3.0, 0, 4.0]),
        ("peft", 0.1, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_variants_keep_different_numbers_and_some_all_equals(
    variant: Variant, density: float, kept: list[float]
) -> None:
    delta = [1.0, 2.0, 3.0, 3.0, -3.0, 4.0]
    assert merge(Ties(density=density, variant=variant), [delta], [1.0], "base") == kept


@pytest.mark.parametrize(
    ("variant", "rows", "expected"),
    [
        # The third entry decides draws: most entries are positive, then most are negative, then as many are either.
        ("official", [[2.0, 2.0, 1.0], [-2.0, -2.0, 1.0]], [2.0, 2.0, 1.0]),
        ("official", [[2.0, 2.0, -1.0], [-2.0, -2.0, -1.0]], [-2.0, -2.0, -1.0]),
        ("official", [[2.0, 2.0, 0.0], [-2.0, -2.0, 0.0]], [-2.0, -2.0, 0.0]),
        ("merge_llm", [[2.0, 2.0, -1.0], [-2.0, -2.0, -1.0]], [-2.0, -2.0, -1.0]),
        ("merge_llm", [[2.0, 2.0, 0.0], [-2.0, -2.0, 0.0]], [0.0, 0.0, 0.0]),
        ("peft", [[2.0, 2.0, -1.0], [-2.0, -2.0, -1.0]], [2.0, 2.0, -1.0]),
    ],
)
def test_variants_settle_draws_differently(variant: Variant, rows: list[list[float]], expected: list[float]) -> None:
    assert merge(Ties(density=1.0, variant=variant), rows, [1.0, 1.0], "base") == expected


def test_of_as_many_of_either_sign_the_official_rule_takes_no_largest() -> None:
    method = Ties(density=1.0, variant="official", aggregate="max")
    assert merge(method, [[2.0], [-2.0]], [1.0, 1.0], "base") == [0.0]


def test_peft_elects_without_weights_and_divides_by_the_number_of_those_who_agree() -> None:
    rows = [[3.0, 3.0], [-1.0, -1.0], [-1.0, 1.0]]
    weights = [0.1, 0.5, 0.5]
    assert merge(Ties(density=1.0, variant="peft"), rows, weights, "base") == pytest.approx([0.3, 0.4])
    assert merge(Ties(density=1.0, variant="peft-frequency"), rows, weights, "base") == pytest.approx([-0.5, 0.4])


def test_rescaling_restores_the_sum_of_magnitudes_of_every_delta() -> None:
    method = Ties(density=0.5, rescale=True)
    assert merge(method, [[3.0, -1.0, 0.5, -0.5]], [1.0], "base") == pytest.approx([3.75, -1.25, 0.0, 0.0])
    assert merge(method, [[0.0, 0.0]], [1.0], "base") == [0.0, 0.0]
    assert merge(method, [[3.0, -1.0, 0.5, -0.5]], [0.5], "own") == [1.5, -0.5, 0.0, 0.0]


def test_contributors_may_have_densities_of_their_own() -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]
    assert merge(Ties(density=(0.25, 0.5), aggregate="sum"), rows, [1.0, 1.0], "base") == [0.0, 0.0, 3.0, 8.0]
    with pytest.raises(ConfigError, match="for 2 contributors: give one value for all or one for each"):
        merge(Ties(density=(0.25, 0.5, 1.0)), rows, [1.0, 1.0], "base")
    with pytest.raises(ConfigError, match=r"density = 1\.5"):
        Ties(density=(0.25, 1.5))


def test_a_density_for_each_may_come_from_a_configuration() -> None:
    assert make_method("ties", {"density": [0.25, 0.5]}) == Ties(density=(0.25, 0.5))


@pytest.mark.parametrize("variant", ["mergekit", "official", "peft"])
@pytest.mark.parametrize("length", [40_000, 70_001])
def test_parts_and_threads_make_no_difference(variant: Variant, length: int) -> None:
    deltas = draw(3, length, 8)
    method = Ties(density=0.3, variant=variant)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(merged(method, deltas, "base"))
    finally:
        torch.set_num_threads(threads)
    trimmed = [merged(method, [delta], "base") for delta in deltas]
    majority = torch.stack(trimmed).sum(0).sign().sum().sign() if variant == "official" else None
    whole = Election().merge(trimmed, [1.0] * 3, majority)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], whole)


def test_left_out_zeros_change_nothing() -> None:
    deltas = draw(2, 60, 5)
    there = (deltas[0] != 0) | (deltas[1] != 0)
    site = Site((1.0, 1.0), (Piece("weight", (60,)),))
    for variant in ("mergekit", "official", "merge_llm", "peft"):
        method = make_method("ties", {"density": 0.4, "variant": variant})
        dense = method.merge(deltas, site)
        assert torch.equal(method.merge([delta[there] for delta in deltas], site), dense[there])
        assert not dense[~there].any()


def test_nobody_votes() -> None:
    assert torch.equal(elect([], []), torch.zeros(()))
    assert torch.equal(elect([torch.zeros(3)], [1.0]), torch.zeros(3))
    assert elect([torch.empty(0)], [1.0]).shape == (0,)


def test_every_vote_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="1 votes, 2 weights"):
        elect([torch.zeros(3)], [1.0, 1.0])


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
        return merged(Ties(density=0.2), [own, *around], "base")
    correction = merged(Ties(density=0.2), [peer - own for peer in around], "own")
    return own + correction


def test_rounds_relative_to_the_base_carry_the_mean_away_and_relative_to_oneself_hardly() -> None:
    assert drift("base") > 0.8
    assert drift("own") < 0.08
