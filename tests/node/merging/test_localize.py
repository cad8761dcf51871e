import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.localize import LocalizeAndStitch
from peermerge.protocol.errors import ConfigError

from .places import merged

ROWS = [torch.tensor([5.0, -4.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 6.0, 0.0])]


def test_everyone_keeps_the_largest_and_overlaps_are_averaged() -> None:
    assert merged(LocalizeAndStitch(density=0.5), ROWS, "base").tolist() == [5, -1, 6, 0]


def test_strictly_the_last_of_the_largest_goes_and_all_that_tie_with_it() -> None:
    assert merged(LocalizeAndStitch(density=0.5, strict=True), ROWS, "base").tolist() == [5, 0, 6, 0]
    assert merged(LocalizeAndStitch(density=0.5, strict=True), [torch.ones(4)], "base").tolist() == [0] * 4


def test_of_ties_the_first_are_kept() -> None:
    assert merged(LocalizeAndStitch(density=0.5), [torch.ones(4)], "base").tolist() == [1, 1, 0, 0]


def test_zeros_are_never_kept() -> None:
    rows = [torch.tensor([3.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 0.0])]
    for strict in (True, False):
        method = LocalizeAndStitch(density=0.75, strict=strict)
        assert merged(method, rows, "base").tolist() == [3, 0, 2, 0]


def test_means_over_overlaps_are_weighted() -> None:
    method = LocalizeAndStitch(density=1.0)
    assert merged(method, ROWS, "base", weights=[3.0, 1.0]).tolist() == [4, -2.5, 2.25, 0]


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_single_entry_is_kept(shape: tuple[int, ...]) -> None:
    assert merged(LocalizeAndStitch(), [torch.tensor([3.0])], "base", shape=shape).tolist() == [3]


def test_the_whole_model_may_be_ranked() -> None:
    assert make_method("localize", {"scope": "global"}).scope == "global"


def test_a_density_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"density = 0\.0"):
        make_method("localize", {"density": 0.0})
