import math

import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.pcb import Pcb
from peermerge.protocol.errors import ConfigError

from .places import merged


def test_scores_select_and_weigh() -> None:
    rows = [torch.tensor([0.1, 0.5, -0.3, 0.2]), torch.tensor([0.4, 0.1, -0.2, 0.3])]
    result = merged(Pcb(density=0.75), rows, "base").tolist()
    # Magnitudes are drawn in to the one but largest; the smallest score of three that count becomes 0.
    sums = [0.5, 0.6, -0.5, 0.5]
    above, below = [0.0] * 4, [0.0] * 4
    for row in (rows[0].tolist(), rows[1].tolist()):
        sizes = [min(abs(value), sorted(map(abs, row))[2]) for value in row]
        norms = [(size - min(sizes)) / (max(sizes) - min(sizes)) for size in sizes]
        scores = [math.exp(2 * n**2) * math.tanh(d * total) for n, d, total in zip(norms, row, sums, strict=True)]
        lowest = sorted(scores)[1]
        for i, score in enumerate(scores):
            share = (max(score, lowest) - lowest) / (max(scores) - lowest)
            above[i] += share * math.copysign(sizes[i], row[i])
            below[i] += share
    assert result == pytest.approx([a / b if b else 0.0 for a, b in zip(above, below, strict=True)], rel=1e-4)


def test_entries_that_nobody_selects_stay() -> None:
    rows = [torch.arange(10.0) / 10, torch.arange(10.0) / 10]
    result = merged(Pcb(density=0.2), rows, "base")
    assert result[:8].tolist() == [0] * 8
    assert float(result[9]) == pytest.approx(0.8)


def test_opponents_lose_against_the_majority() -> None:
    rows = [torch.tensor([0.5, 0.1]), torch.tensor([0.5, 0.1]), torch.tensor([-0.5, 0.4])]
    assert float(merged(Pcb(density=1.0), rows, "base")[0]) > 0


def test_scale_multiplies() -> None:
    rows = [torch.arange(10.0), torch.arange(10.0).flip(0)]
    once, twice = (merged(Pcb(density=0.5, scale=scale), rows, "base") for scale in (1.0, 2.0))
    assert once.any()
    torch.testing.assert_close(twice, once * 2)


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_single_entry_competes_with_nobody(shape: tuple[int, ...]) -> None:
    assert merged(Pcb(), [torch.tensor([3.0])], "base", shape=shape).tolist() == [3]


def test_zeros_and_equal_entries_have_finite_results() -> None:
    assert merged(Pcb(), [torch.zeros(5), torch.zeros(5)], "base").tolist() == [0] * 5
    assert merged(Pcb(), [torch.ones(5), torch.ones(5)], "base").tolist() == [1] * 5


def test_competition_is_for_the_whole_model() -> None:
    assert make_method("pcb", {}).scope == "global"


def test_a_density_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"density = 0\.0"):
        make_method("pcb", {"density": 0.0})
