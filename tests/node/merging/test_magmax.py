import pytest
import torch

from peermerge.node.merging import Reference, make_method
from peermerge.node.merging.magmax import MagMax
from peermerge.protocol.errors import ConfigError

from .places import merged


def test_every_entry_is_the_largest_change_scaled() -> None:
    rows = [torch.tensor([1.0, -4.0, 0.0]), torch.tensor([-3.0, 2.0, 0.0]), torch.tensor([2.0, 3.0, 0.0])]
    assert merged(MagMax(), rows, "base").tolist() == [-1.5, -2, 0]
    assert merged(MagMax(scale=2.0), rows, "base").tolist() == [-6, -8, 0]


def test_the_later_contributor_wins_ties() -> None:
    rows = [torch.tensor([2.0]), torch.tensor([-2.0])]
    assert merged(MagMax(1.0), rows, "base").tolist() == [-2]
    assert merged(MagMax(1.0), rows[::-1], "base").tolist() == [2]


def test_entries_come_out_to_the_last_digit() -> None:
    random = torch.Generator().manual_seed(4)
    rows = torch.randn(3, 40000, generator=random) * 10.0 ** torch.randint(-30, 30, (3, 40000), generator=random)
    expected = rows.gather(0, rows.abs().argmax(0, keepdim=True))[0]
    assert torch.equal(merged(MagMax(1.0), list(rows), "base"), expected)


def test_who_weighs_nothing_has_no_say() -> None:
    rows = [torch.tensor([1.0]), torch.tensor([5.0])]
    assert merged(MagMax(1.0), rows, "base", weights=[1.0, 0.0]).tolist() == [1]
    assert merged(MagMax(1.0), rows, "base", weights=[0.0, 0.0]).tolist() == [0]


@pytest.mark.parametrize("reference", ["own", "base"])
def test_nobody_changes_nothing(reference: Reference) -> None:
    assert merged(MagMax(), [], reference).item() == 0


def test_a_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale = inf"):
        make_method("magmax", {"scale": float("inf")})
