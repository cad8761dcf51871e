import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.magnitude import Magnitude
from peermerge.protocol.errors import ConfigError

from .places import merged

FIVE = torch.tensor([1.0, -2.0, 3.0, -3.0, 5.0])


def kept(method: Magnitude, delta: torch.Tensor = FIVE) -> list[float]:
    result: list[float] = merged(method, [delta], "base").tolist()
    return result


def test_the_largest_are_kept_and_the_first_of_ties() -> None:
    assert kept(Magnitude(density=0.4)) == [0, 0, 3, 0, 5]


def test_at_least_one_is_kept_unless_peft_is_asked_for() -> None:
    assert kept(Magnitude(density=0.1)) == [0, 0, 0, 0, 5]
    assert kept(Magnitude(density=0.1, variant="peft")) == [0, 0, 0, 0, 0]


def test_rescaling_divides_by_the_density() -> None:
    assert kept(Magnitude(density=0.5, rescale=True)) == [0, 0, 6, 0, 10]


def test_merge_lm_drops_the_smallest_and_all_that_tie_with_the_last() -> None:
    assert kept(Magnitude(density=0.4, variant="merge_lm")) == [0, 0, 0, 0, 5]
    assert kept(Magnitude(density=0.8, variant="merge_lm", rescale=True)) == [0, -2.5, 3.75, -3.75, 6.25]


def test_merge_lm_leaves_tiny_tensors_whole() -> None:
    method = Magnitude(density=0.5, variant="merge_lm", rescale=True)
    assert kept(method, torch.tensor([1.0, 2.0])) == [1, 2]


def test_merge_lm_drops_as_many_as_the_complement_says() -> None:
    # 1 - 0.9 is 0.09999999999999998 in floating point, a tenth less than one of ten.
    assert kept(Magnitude(density=0.9, variant="merge_lm"), torch.arange(1.0, 11.0))[:2] == [0, 2]


def test_deltas_are_summed_by_weight_and_scale() -> None:
    result = merged(Magnitude(density=1.0, scale=0.5), [FIVE, FIVE], "base", weights=[1.0, 3.0])
    assert result.tolist() == [2, -4, 6, -6, 10]


def test_relative_to_oneself_nothing_is_rescaled() -> None:
    result = merged(Magnitude(density=0.5, rescale=True), [FIVE], "own", weights=[0.25])
    assert result.tolist() == [0, 0, 0.75, 0, 1.25]


def test_a_density_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"density = 0\.0"):
        make_method("magnitude", {"density": 0.0})
