import torch
from torch import Tensor

from peermerge.node.merging.wudi import Wudi

from .matrix_cases import awkward
from .places import merged

SHAPE = (4, 6)


def loss(tau: Tensor, deltas: list[Tensor]) -> Tensor:
    return torch.stack([((tau - d) @ d.T).square().sum() / d.square().sum() for d in deltas]).sum()


def test_the_descent_is_adam_s_on_the_interference() -> None:
    deltas = [delta.view(SHAPE) for delta in awkward(SHAPE)["distinct"]]
    tau = torch.nn.Parameter(deltas[0] + deltas[1] + deltas[2])
    optimiser = torch.optim.Adam([tau], lr=1e-2)
    for _ in range(10):
        optimiser.zero_grad()
        loss(tau, deltas).backward()
        optimiser.step()
    result = merged(Wudi(steps=10, rate=1e-2), [d.reshape(-1) for d in deltas], "base", shape=SHAPE)
    torch.testing.assert_close(result.view(SHAPE), tau.detach())


def test_without_a_step_it_is_the_scaled_sum() -> None:
    deltas = awkward(SHAPE)["distinct"]
    result = merged(Wudi(scale=0.5, steps=0), deltas, "base", shape=SHAPE, weights=[1.0, 2.0, 3.0])
    torch.testing.assert_close(result, 0.5 * (deltas[0] + 2 * deltas[1] + 3 * deltas[2]))


def test_a_single_contributor_stays_as_it_is() -> None:
    delta = awkward(SHAPE)["single"][0]
    torch.testing.assert_close(merged(Wudi(steps=3, rate=0.1), [delta], "base", shape=SHAPE), delta)


def test_the_sum_of_two_alike_comes_down_towards_one() -> None:
    delta = torch.ones(4)
    result = merged(Wudi(steps=100, rate=0.05), [delta, delta], "base", shape=(2, 2))
    torch.testing.assert_close(result, delta, atol=0.1, rtol=0)


def test_a_contributor_that_changed_nothing_asks_for_nothing() -> None:
    deltas, method = awkward(SHAPE)["distinct"][:2], Wudi(steps=5, rate=0.1)
    alone = merged(method, deltas, "base", shape=SHAPE)
    torch.testing.assert_close(merged(method, [*deltas, torch.zeros(24)], "base", shape=SHAPE), alone)
