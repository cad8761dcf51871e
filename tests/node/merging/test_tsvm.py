import torch

from peermerge.node.merging.tsvm import Tsvm

from .matrix_cases import awkward
from .places import draw, merged


def diagonal(*values: float) -> torch.Tensor:
    return torch.diag(torch.tensor(values)).reshape(-1)


def test_contributors_keep_their_share_of_leading_directions() -> None:
    deltas = [diagonal(4.0, 3.0, 0.0, 0.0), diagonal(0.0, 0.0, -2.0, 1.0)]
    result = merged(Tsvm(), [*deltas, diagonal(0.0, 0.5, 0.0, 6.0), torch.zeros(16)], "base", shape=(4, 4))
    torch.testing.assert_close(result, diagonal(4.0, 0.0, -2.0, 6.0))


def test_overlapping_directions_are_replaced_by_the_nearest_orthonormal_ones() -> None:
    """u_1 = (1, 0), u_2 = (1, 1) / sqrt 2: their polar factor turns both by the same angle, 22.5 degrees, apart."""
    angle = torch.tensor(torch.pi / 8)
    first = torch.outer(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]))
    second = 2 * torch.outer(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])) / 2**0.5
    result = merged(Tsvm(), [first.reshape(-1), second.reshape(-1)], "base", shape=(2, 2)).view(2, 2)
    torch.testing.assert_close(result[:, 0], torch.stack((angle.cos(), -angle.sin())))
    torch.testing.assert_close(result[:, 1], 2 * torch.stack((angle.sin(), angle.cos())))


def test_a_single_contributor_comes_through_whole() -> None:
    delta = awkward((4, 7))["single"][0]
    torch.testing.assert_close(merged(Tsvm(), [delta], "base", shape=(4, 7)), delta)


def test_weights_and_scale_multiply() -> None:
    deltas = awkward((4, 7))["distinct"]
    twice = merged(Tsvm(), [2 * deltas[0], *deltas[1:]], "base", shape=(4, 7))
    torch.testing.assert_close(merged(Tsvm(), deltas, "base", shape=(4, 7), weights=[2, 1, 1]), twice)
    torch.testing.assert_close(merged(Tsvm(0.5), deltas, "base", shape=(4, 7), weights=[2, 1, 1]), twice / 2)


def test_matrices_smaller_than_the_number_of_contributors_keep_an_update() -> None:
    deltas = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    lost = merged(Tsvm(variant="fusion_bench"), deltas, "base", shape=(1, 2))
    assert lost.tolist() == [0.0, 0.0]
    kept = merged(Tsvm(), deltas, "base", shape=(1, 2))
    torch.testing.assert_close(kept, torch.tensor([3.0, 4.0]) / 2**0.5)


def test_one_who_changed_nothing_takes_no_direction_from_others() -> None:
    deltas = awkward((6, 6))["distinct"][:2]
    small = [delta.view(6, 6)[:3, :3].reshape(-1) for delta in deltas]
    alone = merged(Tsvm(variant="lossless"), small, "base", shape=(3, 3))
    beside = merged(Tsvm(variant="lossless"), [*small, torch.zeros(9)], "base", shape=(3, 3))
    torch.testing.assert_close(alone, beside)


def test_equal_contributors_count_once() -> None:
    delta = diagonal(4.0, 2.0)
    torch.testing.assert_close(merged(Tsvm(), [delta, delta], "base", shape=(2, 2)), diagonal(4.0, 0.0))
    torch.testing.assert_close(merged(Tsvm(variant="lossless"), [delta, delta], "base", shape=(2, 2)), delta)


def test_lossless_keeps_all_directions_of_orthogonal_contributors() -> None:
    deltas = [diagonal(4.0, 3.0, 0.0, 0.0), diagonal(0.0, 0.0, 2.0, 1.0)]
    assert torch.allclose(
        merged(Tsvm(variant="lossless"), deltas, "base", shape=(4, 4)), diagonal(4.0, 3.0, 2.0, 1.0), atol=1e-6
    )


def test_the_library_s_variant_is_the_same_where_all_directions_are_there() -> None:
    deltas = awkward((9, 6))["distinct"]
    ours, theirs = (merged(Tsvm(variant=v), deltas, "base", shape=(9, 6)) for v in ("paper", "fusion_bench"))
    torch.testing.assert_close(ours, theirs)


def test_order_of_contributors_does_not_matter() -> None:
    deltas = draw(4, (6, 8), 3)
    torch.testing.assert_close(
        merged(Tsvm(), deltas, "base", shape=(6, 8)), merged(Tsvm(), deltas[::-1], "base", shape=(6, 8))
    )
