import torch
from torch import Tensor

from peermerge.node.merging import Piece, Site
from peermerge.node.merging.doge import Doge

from .matrix_cases import awkward
from .places import merged

SHAPE = (6, 5)


def loss(deltas: list[Tensor], lengths: list[float], shared: Tensor) -> Tensor:
    total = sum((length * (d + shared) for length, d in zip(lengths, deltas, strict=True)), torch.zeros(()))
    return torch.stack([(d * (d - total)).sum(1).square().sum() for d in deltas]).sum()


def test_without_a_step_the_largest_entries_are_added_with_lengths_of_their_norms() -> None:
    deltas = [torch.tensor([3.0, 0.0, 4.0, 0.5]), torch.tensor([0.0, 12.0, -5.0, 0.5])]
    result = merged(Doge(scale=0.1, density=0.25, steps=0), deltas, "base", shape=(2, 2), weights=[1.0, 2.0])
    norms = [float(delta.norm()) for delta in deltas]
    expected = torch.tensor([0.3 / norms[0], 2.4 / norms[1], 0.4 / norms[0] - 1.0 / norms[1], 0.0])
    torch.testing.assert_close(result, expected)


def test_the_shared_change_follows_the_gradient_outside_of_the_common_subspace() -> None:
    """One step of Adam moves every entry by the learning rate against its slope's sign."""
    deltas = [delta.view(SHAPE) for delta in awkward(SHAPE)["distinct"]]
    lengths = [0.07 / float(delta.norm()) for delta in deltas]
    shared = torch.zeros(SHAPE, requires_grad=True)
    loss(deltas, lengths, shared).backward()
    slope = shared.grad
    assert slope is not None
    leading = torch.cat([torch.linalg.svd(delta, full_matrices=False)[0][:, :1] for delta in deltas], 1)
    basis = torch.linalg.svd(leading, full_matrices=False)[0][:, :2]
    step = -1e-2 * (slope - basis @ basis.T @ slope).sign()
    expected = sum((length * (d + step) for length, d in zip(lengths, deltas, strict=True)), torch.zeros(()))
    method = Doge(density=1.0, subspace=2, steps=1, rate=1e-2)
    result = merged(method, [delta.reshape(-1) for delta in deltas], "base", shape=SHAPE)
    torch.testing.assert_close(result.view(SHAPE), expected, atol=1e-5, rtol=1e-4)


def test_many_steps_lessen_the_loss() -> None:
    deltas = [delta.view(SHAPE) for delta in awkward(SHAPE)["distinct"]]
    lengths = [0.07 / float(delta.norm()) for delta in deltas]
    plain = Doge(density=1.0, steps=0)
    change = merged(Doge(density=1.0, steps=50, rate=0.1), [d.reshape(-1) for d in deltas], "base", shape=SHAPE)
    shared = (change - merged(plain, [d.reshape(-1) for d in deltas], "base", shape=SHAPE)) / sum(lengths)
    before, after = (float(loss(deltas, lengths, at)) for at in (torch.zeros(SHAPE), shared.view(SHAPE)))
    assert after < 0.9 * before


def test_a_contributor_that_changed_nothing_adds_nothing() -> None:
    deltas = awkward(SHAPE)["distinct"][:2]
    alone = merged(Doge(steps=0), deltas, "base", shape=SHAPE)
    torch.testing.assert_close(merged(Doge(steps=0), [*deltas, torch.zeros(30)], "base", shape=SHAPE), alone)


def test_largest_entries_are_those_of_each_tensor_or_of_all() -> None:
    pieces = (Piece("a", (1, 3)), Piece("b", (1, 3)), Piece("norm", (2,)))
    delta = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 100.0, 100.0])
    site = Site((1.0,), pieces)
    overall = Doge(density=0.5, steps=0, scope="global").merge([delta], site)
    assert (overall != 0).tolist() == [False, False, True, True, True, True, True, True]
    first = merged(Doge(density=0.5, steps=0), [delta[:3]], "base", shape=(1, 3))
    assert (first != 0).tolist() == [False, True, True]


def test_all_but_weights_of_linear_layers_come_to_the_mean_or_stay_at_the_base() -> None:
    pieces = (Piece("embed.weight", (1, 2)), Piece("layer.weight", (1, 2)), Piece("norm.weight", (2,)))
    deltas = [torch.full((6,), 2.0), torch.full((6,), 4.0)]
    site = Site((1.0, 1.0), pieces)
    ours = Doge(steps=0, scope="global").merge(deltas, site)
    theirs = Doge(steps=0, scope="global", variant="fusion_bench").merge(deltas, site)
    assert ours[[0, 1, 4, 5]].tolist() == [3.0] * 4
    assert theirs[[0, 1, 4, 5]].tolist() == [0.0] * 4
    assert torch.equal(ours[2:4], theirs[2:4])
    assert bool(ours[2:4].all())


def test_tensors_alone_stay_at_the_base_by_the_library_s_variant() -> None:
    assert not bool(merged(Doge(variant="fusion_bench"), [torch.ones(3)], "base").any())
