import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.consensus import Consensus, tall_mask
from peermerge.protocol.errors import ConfigError

from .places import merged

ROWS = [torch.tensor([4.0, 1.0, 1.0, 0.0]), torch.tensor([4.0, 8.0, -1.0, 0.0]), torch.tensor([4.0, 0.0, 0.5, 0.0])]


def test_a_mask_holds_where_the_move_exceeds_the_distance_to_the_merge() -> None:
    assert tall_mask(torch.tensor([4.0, 1.0, 0.0]), torch.tensor([6.0, 9.0, 0.0]), 0.5).tolist() == [True, False, False]


def test_masks_of_weights_are_those_of_deltas() -> None:
    base, delta, tau = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.0]), torch.tensor([6.0, 9.0])
    assert torch.equal(tall_mask(base + delta, base + tau, 0.5, base), tall_mask(delta, tau, 0.5))


@pytest.mark.parametrize(
    ("agreeing", "expected"),
    [
        (0, [12, 9, 0.5, 0]),
        (1, [12, 9, 0.5, 0]),
        (2, [12, 0, 0.5, 0]),
        (3, [12, 0, 0.5, 0]),
        (4, [0, 0, 0, 0]),
    ],
)
def test_what_fewer_agree_on_is_left_out(agreeing: int, expected: list[float]) -> None:
    # Entry 1: 1 and 0 stay far from 9, 8 does not. Entry 2: all move further than 0.4 of their way to 0.5.
    assert merged(Consensus(threshold=0.4, agreeing=agreeing), ROWS, "base").tolist() == expected


def test_scale_and_weights_multiply_the_sum() -> None:
    result = merged(Consensus(agreeing=3, scale=0.5), ROWS, "base", weights=[0.5] * 3)
    assert result.tolist() == [3, 0, 0.125, 0]


def test_masks_may_be_those_of_an_elected_merge() -> None:
    result = merged(Consensus(agreeing=2, merged="ties", density=1.0), ROWS, "base")
    assert result.tolist() == [4, 0, 0.75, 0]


def test_a_lone_neighbour_needs_no_other_to_agree() -> None:
    assert merged(Consensus(agreeing=2), [torch.tensor([4.0])], "own", weights=[0.5]).tolist() == [2]
    assert merged(Consensus(agreeing=2), [torch.tensor([4.0])], "base").tolist() == [0]


@pytest.mark.parametrize(("key", "value"), [("threshold", -1.0), ("agreeing", -1), ("scale", float("nan"))])
def test_limits_that_mean_nothing_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key} = {value}"):
        make_method("consensus", {key: value})
