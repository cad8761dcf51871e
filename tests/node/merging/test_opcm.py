import pytest
import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site
from peermerge.node.merging.opcm import Opcm, OpcmState, project

from .matrix_cases import awkward
from .places import draw, merged

PIECES = (
    Piece("model.embed_tokens.weight", (4, 3)),
    Piece("model.layers.0.weight", (3, 3)),
    Piece("model.norm.weight", (2,)),
)
SIZE = sum(piece.size for piece in PIECES)


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values))


@pytest.mark.parametrize(("alpha", "leading"), [(0.0, 0), (0.4, 0), (0.6, 1), (0.8, 2), (0.95, 3)])
def test_the_diagonal_and_the_leading_block_of_what_was_merged_are_taken_out(alpha: float, leading: int) -> None:
    """Axes are the directions, and the singular values add up to 48, 76, 90 and 100 % of their sum."""
    new = torch.arange(1.0, 17.0).view(4, 4)
    expected = new.clone()
    expected.diagonal().zero_()
    expected[:leading, :leading] = 0
    torch.testing.assert_close(project(new, diagonal(5.0, 3.0, 1.5, 1.0), alpha), expected)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1)])
def test_what_lies_along_the_merged_vector_is_removed_whole(shape: tuple[int, int]) -> None:
    old = awkward(shape)["distinct"][0].view(shape)
    torch.testing.assert_close(project(3 * old, old, 0.0), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_a_merged_vector_of_zeros_takes_nothing_out(shape: tuple[int, int]) -> None:
    new = awkward(shape)["distinct"][0].view(shape)
    torch.testing.assert_close(project(new, torch.zeros(shape), 0.5), new)


def test_the_first_arrival_is_kept_as_it_is() -> None:
    delta = draw(1, SIZE, 1)[0]
    torch.testing.assert_close(OpcmState(Opcm(), PIECES).arrive(delta).merged, delta)


def test_only_weights_of_linear_layers_are_projected() -> None:
    delta = draw(1, SIZE, 1)[0]
    state = OpcmState(Opcm(alpha=0.0), PIECES).arrive(delta).arrive(delta)
    parts = state.merged.split([piece.size for piece in PIECES])
    for part, original, growth in zip(parts, delta.split([12, 9, 2]), [2.0, 1.0, 2.0], strict=True):
        torch.testing.assert_close(part * state.gain, growth * original)


def test_the_merged_vector_has_the_mean_norm_of_all_arrivals() -> None:
    deltas = draw(4, SIZE, 2)
    state = OpcmState(Opcm(), PIECES)
    for delta in deltas:
        state = state.arrive(delta)
    torch.testing.assert_close(state.merged.norm(), torch.stack([delta.norm() for delta in deltas]).mean())
    assert state.count == 4


def test_the_method_is_its_state_after_the_last_arrival() -> None:
    deltas = draw(3, SIZE, 2)
    state = OpcmState(Opcm(), PIECES)
    for delta in deltas:
        state = state.arrive(delta)
    assert torch.equal(Opcm().merge(deltas, Site((1.0,) * 3, PIECES)), state.merged)


def test_a_state_stays_of_one_size_and_is_not_changed_by_an_arrival() -> None:
    first = OpcmState(Opcm(), PIECES).arrive(draw(1, SIZE, 2)[0])
    before = first.merged.clone()
    second = first.arrive(draw(1, SIZE, 3)[0])
    assert torch.equal(first.merged, before)
    assert second.merged.shape == first.merged.shape
    assert (second.gain.numel(), second.norms.numel()) == (1, 1)


def test_the_order_matters() -> None:
    deltas = awkward((4, 4))["distinct"]
    there, back = (merged(Opcm(), order, "base", shape=(4, 4)) for order in (deltas, deltas[::-1]))
    assert not torch.allclose(there, back)


def test_equal_weights_change_nothing_and_others_count_by_their_ratio() -> None:
    deltas = awkward((4, 4))["distinct"]
    plain = merged(Opcm(), deltas, "base", shape=(4, 4))
    torch.testing.assert_close(merged(Opcm(), deltas, "base", shape=(4, 4), weights=[0.25] * 3), plain)
    uneven = [0.5 * deltas[0], 1.5 * deltas[1]]
    torch.testing.assert_close(
        merged(Opcm(), deltas[:2], "base", shape=(4, 4), weights=[1.0, 3.0]),
        merged(Opcm(), uneven, "base", shape=(4, 4)),
    )


def test_arrivals_of_nothing_leave_zeros() -> None:
    state = OpcmState(Opcm(), PIECES).arrive(torch.zeros(SIZE)).arrive(torch.zeros(SIZE))
    assert not bool(state.merged.any())
    assert bool(state.arrive(torch.ones(SIZE)).merged.isfinite().all())


def test_it_asks_for_all_tensors_at_once() -> None:
    assert Opcm().scope == "global"
