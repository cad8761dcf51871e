import math

import pytest
import torch

from peermerge.node.merging import Piece, Site
from peermerge.node.merging.widen import Widen, difference, ranks


def widened(method: Widen, name: str, deltas: list[torch.Tensor], base: torch.Tensor, *weights: float) -> torch.Tensor:
    site = Site(weights or (1.0,) * len(deltas), (Piece(name, tuple(base.shape)),), base=base.reshape(-1))
    return method.merge([delta.reshape(-1) for delta in deltas], site).view(base.shape)


def test_ranks_are_shares_of_the_places_and_equals_keep_their_order() -> None:
    result = ranks(torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.0, 5.0, math.inf, 1.0]]))
    assert result.tolist() == [[0.75, 0.0, 0.25, 0.5], [0.0, 0.5, 0.75, 0.25]]


def test_columns_differ_in_their_norms_and_in_their_directions() -> None:
    base = torch.tensor([[3.0, 1.0, 1.0], [4.0, 0.0, 0.0]])
    own = torch.tensor([[6.0, 0.0, 1.0], [8.0, 1.0, 0.0]])
    lengths, directions = difference(own, base)
    torch.testing.assert_close(lengths, torch.tensor([5.0, 0.0, 0.0]))
    torch.testing.assert_close(directions, torch.tensor([0.0, 1.0, 0.0]))


def test_a_column_of_zeros_has_a_direction_infinitely_far_from_any_other() -> None:
    base = torch.tensor([[1.0, 0.0, 0.0]])
    own = torch.tensor([[0.0, 1.0, 0.0]])
    lengths, directions = difference(own, base)
    assert lengths.tolist() == [1.0, 1.0, 0.0]
    assert directions.tolist() == [math.inf] * 3


def test_entries_of_a_vector_count_whole_above_the_mean_and_by_softmax_below() -> None:
    deltas = [torch.tensor([1.0, 3.0]), torch.tensor([-4.0, 0.0])]
    result = widened(Widen(), "norm", deltas, torch.zeros(2))
    shares = torch.softmax(torch.tensor([[1.0, 3.0], [4.0, 0.0]]), 0)
    torch.testing.assert_close(result, torch.stack((shares[0, 0] * 1 - 4.0, 3.0 + 0 * shares[1, 1])))


def test_columns_of_a_matrix_count_by_the_mean_of_both_scores() -> None:
    """The first column grows, the second turns; each is above the mean in one of the two ways only."""
    base = torch.eye(2)
    delta = torch.tensor([[1.0, 0.6], [0.0, -0.2]])
    result = widened(Widen(ratio=1.0, calibration=3.0), "layer", [delta], base)
    torch.testing.assert_close(result, delta * (3.0 + 1.0) / 2)


def test_weights_multiply_and_a_high_ratio_leaves_the_softmax() -> None:
    deltas = [torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0])]
    result = widened(Widen(ratio=10.0), "norm", deltas, torch.zeros(2), 1.0, 3.0)
    torch.testing.assert_close(result, torch.tensor([2.0, 6.0]))


def test_embeddings_are_scored_by_rows() -> None:
    base, delta = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 3)
    delta[2] = 1.0
    other = torch.full((4, 3), 0.01)
    by_rows = widened(Widen(), "model.embed_tokens.weight", [delta, other], base)
    turned = widened(Widen(), "layer.weight", [delta.T, other.T], base.T.contiguous())
    torch.testing.assert_close(by_rows, turned.T)
    assert not torch.equal(by_rows, widened(Widen(), "layer.weight", [delta, other], base))


def test_convolutions_are_scored_by_what_the_first_dimension_leaves() -> None:
    random = torch.Generator().manual_seed(0)
    base, a, b = (torch.randn(2, 3, 2, generator=random) for _ in range(3))
    flat = widened(Widen(), "conv", [a.view(2, 6), b.view(2, 6)], base.view(2, 6))
    assert torch.equal(widened(Widen(), "conv", [a, b], base).view(2, 6), flat)


def test_a_base_of_zeros_has_finite_results() -> None:
    result = widened(Widen(), "layer", [torch.ones(2, 3), torch.zeros(2, 3)], torch.zeros(2, 3))
    assert bool(result.isfinite().all())


def test_without_a_base_it_cannot_merge() -> None:
    with pytest.raises(ValueError, match="base"):
        Widen().merge([torch.ones(2)], Site((1.0,), (Piece("a", (2,)),)))
