import pytest
import torch

from peermerge.node.merging.dare import DareLinear, DareTies, drop_out

N = 20_000


def test_dropping_hits_the_stated_share_and_leaves_the_rest_alone() -> None:
    kept = drop_out(torch.full((N,), 3.0), 0.9, 1)
    assert set(kept.tolist()) == {0.0, 3.0}
    assert float((kept == 0).float().mean()) == pytest.approx(0.9, abs=0.01)


def test_contributors_are_dropped_by_their_own_seeds() -> None:
    x = torch.ones(100)
    assert torch.equal(drop_out(x, 0.5, 1), drop_out(x, 0.5, 1))
    assert not torch.equal(drop_out(x, 0.5, 1), drop_out(x, 0.5, 2))


def test_rescaled_survivors_keep_the_expectation_of_task_arithmetic() -> None:
    ones = torch.ones(N)
    result = DareLinear(drop=0.8).merge([ones, 2 * ones], [0.5, 0.5], reference="base", seeds=[1, 2])
    assert float(result.mean()) == pytest.approx(3.0, abs=0.1)
    assert set(result.round(decimals=3).tolist()) == {0.0, 5.0, 10.0, 15.0}


def test_survivors_may_stay_as_they_are() -> None:
    result = DareLinear(drop=0.8, rescale=False).merge([torch.ones(N)], [1.0], reference="base", seeds=[1])
    assert set(result.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("method", [DareLinear(drop=0.8), DareTies(drop=0.8)])
def test_relative_to_oneself_nothing_is_rescaled(method: DareLinear | DareTies) -> None:
    result = method.merge([torch.ones(N)], [0.25], reference="own", seeds=[1])
    assert set(result.tolist()) == {0.0, 0.25}


@pytest.mark.parametrize("method", [DareLinear(drop=0.0, scale=2.0), DareTies(drop=0.0, scale=2.0)])
def test_without_dropping_the_plain_rule_remains(method: DareLinear | DareTies) -> None:
    deltas = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])]
    result = method.merge(deltas, [0.5, 0.5], reference="base", seeds=[0, 0])
    assert result.tolist() == ([8.0, -2.0] if isinstance(method, DareLinear) else [4.0, -4.0])


def test_only_survivors_vote_for_a_sign() -> None:
    votes = [torch.full((N,), -3.0), torch.ones(N)]
    result = DareTies(drop=0.5).merge(votes, [0.5, 0.5], reference="base", seeds=[1, 2])
    assert set(result.tolist()) == {-6.0, 0.0, 2.0}


def test_seeds_shared_by_the_ends_of_an_edge_keep_the_mean() -> None:
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(1000, generator=random) for _ in range(3)]
    edge_seed = {(0, 1): 5, (0, 2): 6, (1, 2): 7}
    method = DareLinear(drop=0.7)
    moved = []
    for i, own in enumerate(states):
        peers = [j for j in range(3) if j != i]
        seeds = [edge_seed[min(i, j), max(i, j)] for j in peers]
        moved.append(own + method.merge([states[j] - own for j in peers], [1 / 3] * 2, reference="own", seeds=seeds))
    torch.testing.assert_close(torch.stack(moved).mean(0), torch.stack(states).mean(0))


def test_every_contributor_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="zip"):
        DareLinear().merge([torch.ones(2)], [1.0], reference="own", seeds=[])
