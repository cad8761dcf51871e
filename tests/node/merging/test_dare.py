from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from peermerge.node.merging.dare import DareLinear, DareTies, DropEqually, Rescale, drawn, thresholds
from peermerge.protocol.errors import ConfigError

from .places import draw, merged

N = 20_000


def drop_out(x: Tensor, density: float, seed: int) -> Tensor:
    return DropEqually(density).read(x, x.shape, seed, 0, rescale=False)(slice(0, len(x)))


def test_dropping_hits_the_stated_share_and_leaves_the_rest_alone() -> None:
    kept = drop_out(torch.full((N,), 3.0), 0.1, 1)
    assert set(kept.tolist()) == {0.0, 3.0}
    assert float((kept == 0).float().mean()) == pytest.approx(0.9, abs=0.01)


def test_contributors_are_dropped_by_their_own_seeds() -> None:
    x = torch.ones(100)
    assert torch.equal(drop_out(x, 0.5, 1), drop_out(x, 0.5, 1))
    assert not torch.equal(drop_out(x, 0.5, 1), drop_out(x, 0.5, 2))


def test_parts_are_drawn_apart_from_each_other() -> None:
    half = thresholds(torch.full((), 0.5))
    first, second, again = (drawn(half, (N,), 1, start) for start in (0, N, 0))
    assert torch.equal(first, again)
    assert float((first == second).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_is_drawn_and_certainty_is_certain(count: int) -> None:
    assert drawn(thresholds(torch.ones(())), (count,), 3, 0).tolist() == [1.0] * count
    assert drawn(thresholds(torch.zeros(())), (count,), 3, 0).tolist() == [0.0] * count


def test_the_draws_of_a_seed_stay_what_they_are() -> None:
    found = drawn(thresholds(torch.full((), 0.5)), (12,), 7, 0).int().tolist()
    assert found == [1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0]


def test_rescaled_survivors_keep_the_expectation_of_task_arithmetic() -> None:
    ones = torch.ones(N)
    result = merged(DareLinear(density=0.2), [ones, 2 * ones], "base", seeds=[1, 2])
    assert float(result.mean()) == pytest.approx(3.0, abs=0.1)
    assert set(result.round(decimals=3).tolist()) == {0.0, 5.0, 10.0, 15.0}


def test_survivors_may_stay_as_they_are() -> None:
    result = merged(DareLinear(density=0.2, rescale="none"), [torch.ones(N)], "base", seeds=[1])
    assert set(result.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("length", [50, 70_000])
def test_survivors_may_take_over_the_sum_of_magnitudes(length: int) -> None:
    delta = draw(1, length, 4)[0]
    result = merged(DareLinear(density=0.3, rescale="l1"), [delta], "base", seeds=[1])
    plain = merged(DareLinear(density=0.3, rescale="none"), [delta], "base", seeds=[1])
    assert float(result.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    torch.testing.assert_close(result, plain * (delta.abs().sum() / plain.abs().sum()))


def test_where_nothing_survives_there_is_nothing_to_rescale() -> None:
    delta = torch.ones(1)
    results = {
        merged(DareLinear(density=0.5, rescale="l1"), [delta], "base", seeds=[seed]).item() for seed in range(20)
    }
    assert results == {0.0, 1.0}


@pytest.mark.parametrize("method", [DareLinear(density=0.2), DareTies(density=0.2)])
def test_relative_to_oneself_nothing_is_rescaled(method: DareLinear | DareTies) -> None:
    result = merged(method, [torch.ones(N)], "own", weights=[0.25], seeds=[1])
    assert set(result.tolist()) == {0.0, 0.25}


@pytest.mark.parametrize("method", [DareLinear(density=1.0, scale=2.0), DareTies(density=1.0, scale=2.0)])
def test_without_dropping_the_plain_rule_remains(method: DareLinear | DareTies) -> None:
    deltas = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])]
    result = merged(method, deltas, "base", seeds=[0, 0])
    assert result.tolist() == ([8.0, -2.0] if isinstance(method, DareLinear) else [4.0, -4.0])


def test_the_sum_may_be_divided_by_the_weights() -> None:
    deltas = [torch.tensor([4.0]), torch.tensor([8.0])]
    method = DareLinear(density=1.0, aggregate="mean")
    assert merged(method, deltas, "base", weights=[1.0, 3.0]).tolist() == [7.0]
    assert merged(method, deltas, "base", weights=[1.0, -1.0]).tolist() == [-4.0]


def test_those_who_agree_may_be_added_up() -> None:
    deltas = [torch.tensor([4.0]), torch.tensor([8.0]), torch.tensor([-1.0])]
    assert merged(DareTies(density=1.0, aggregate="sum"), deltas, "base").tolist() == [12.0]


def test_only_survivors_vote_for_a_sign() -> None:
    votes = [torch.full((N,), -3.0), torch.ones(N)]
    result = merged(DareTies(density=0.5), votes, "base", seeds=[1, 2])
    assert set(result.tolist()) == {-6.0, 0.0, 2.0}


def test_contributors_may_have_densities_of_their_own() -> None:
    method = DareLinear(density=(1.0, 0.1), rescale="none")
    result = merged(method, [torch.ones(N), torch.full((N,), 2.0)], "base", seeds=[1, 2])
    assert float((result == 3).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert set(result.tolist()) == {1.0, 3.0}
    with pytest.raises(ConfigError, match=r"density = 0\.0"):
        DareTies(density=(0.5, 0.0))


@pytest.mark.parametrize("rescale", ["paper", "l1"])
@pytest.mark.parametrize("build", [DareLinear, DareTies])
def test_threads_make_no_difference(build: Callable[..., DareLinear | DareTies], rescale: Rescale) -> None:
    deltas, method = draw(2, 70_001, 6), build(density=0.4, rescale=rescale)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(merged(method, deltas, "base"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_seeds_shared_by_the_ends_of_an_edge_keep_the_mean() -> None:
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(1000, generator=random) for _ in range(3)]
    edge_seed = {(0, 1): 5, (0, 2): 6, (1, 2): 7}
    method = DareLinear(density=0.3)
    moved = []
    for i, own in enumerate(states):
        peers = [j for j in range(3) if j != i]
        seeds = [edge_seed[min(i, j), max(i, j)] for j in peers]
        moved.append(own + merged(method, [states[j] - own for j in peers], "own", seeds=seeds))
    torch.testing.assert_close(torch.stack(moved).mean(0), torch.stack(states).mean(0))


def test_every_contributor_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="zip"):
        merged(DareLinear(), [torch.ones(2)], "base", seeds=[])
