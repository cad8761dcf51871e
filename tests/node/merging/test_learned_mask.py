import pytest
import torch
from torch import Tensor

from peermerge.node.merging.learned_mask import learn_mask
from peermerge.protocol.errors import ConfigError

BASE = torch.zeros(6)
DELTA = torch.tensor([3.0, 0.1, 2.0, 0.0, 1.0, -0.2])
WANTED = torch.tensor([0.0, 0.1, 0.0, 0.0, 1.0, -0.2])


def gradient(weights: Tensor) -> Tensor:
    """Of half the squared distance to what the task wants: the largest entries of the delta do harm."""
    return weights - WANTED


def test_entries_that_help_are_found_and_entries_that_harm_are_dropped_however_large() -> None:
    mask = learn_mask(BASE, DELTA, gradient, density=0.5, lr=2000.0, sparsity=0.0, epochs=200)
    assert mask.tolist() == [False, True, False, False, True, True]


def test_without_epochs_the_largest_entries_remain() -> None:
    assert learn_mask(BASE, DELTA, gradient, density=0.34, epochs=0).tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_what_the_task_does_not_need_is_given_up_for_sparsity() -> None:
    mask = learn_mask(BASE, DELTA, torch.zeros_like, density=1.0, sparsity=50.0, epochs=200)
    assert not mask.any()


def test_entries_that_did_not_change_are_never_sent() -> None:
    assert not learn_mask(BASE, DELTA, gradient, density=1.0, epochs=0)[3]


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="density = 0"):
        learn_mask(BASE, DELTA, gradient, density=0.0)
