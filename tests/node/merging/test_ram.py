import pytest
import torch

from peermerge.node.merging import make_method
from peermerge.node.merging.ram import Ram, RamPlus
from peermerge.protocol.errors import ConfigError

from .places import merged

ROWS = [torch.tensor([2.0, 4.0, 0.0, 3.0]), torch.tensor([0.0, -2.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, 2.0])]


def test_what_one_changed_stays_whole_and_the_rest_is_averaged_over_those_who_changed_it() -> None:
    assert merged(Ram(), ROWS, "base").tolist() == [2, 1, 0, 2]


def test_changes_up_to_epsilon_are_none() -> None:
    rows = [torch.tensor([0.5, 0.75]), torch.tensor([2.0, 2.0])]
    assert merged(Ram(epsilon=0.5), rows, "base").tolist() == [2, 1.375]


def test_means_are_weighted() -> None:
    rows = [torch.tensor([4.0, 4.0]), torch.tensor([8.0, 0.0])]
    assert merged(Ram(), rows, "base", weights=[3.0, 1.0]).tolist() == [5, 4]


def test_what_is_alone_grows_by_the_share_of_what_is_not() -> None:
    # The first changed two entries with others and one alone: 1 + 0.5 * 2.
    assert merged(RamPlus(r=0.5, alpha=3.0), ROWS, "base").tolist() == [4, 1, 0, 2]


def test_growth_is_limited() -> None:
    assert merged(RamPlus(r=0.5, alpha=0.5), ROWS, "base").tolist() == [2.5, 1, 0, 2]


@pytest.mark.parametrize("shape", [(1,), (), (0,)])
def test_tiny_and_empty_tensors(shape: tuple[int, ...]) -> None:
    rows = [torch.full(shape, value).view(-1) for value in (3.0, 1.0)]
    for name in ("ram", "ram-plus"):
        assert merged(make_method(name, {}), rows, "base", shape=shape).tolist() == [2.0] * len(rows[0])


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"epsilon = -1\.0"):
        make_method("ram", {"epsilon": -1.0})
    with pytest.raises(ConfigError, match=r"alpha = -0\.5"):
        make_method("ram-plus", {"alpha": -0.5})
