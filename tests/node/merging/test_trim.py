import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peermerge.node.merging.trim import keep_largest, largest

entries = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1e-30, 3.0]), max_size=40)
modest = settings(max_examples=80, deadline=None)
PART = 1000


def kept(values: list[float], k: int) -> list[int]:
    return keep_largest(torch.tensor(values), k).nonzero().flatten().tolist()


def read(x: Tensor, k: int, *, equals: bool = False) -> Tensor:
    reader = largest(x, k, equals=equals)
    return torch.cat([reader(slice(start, start + PART)) for start in range(0, len(x), PART)])


@modest
@given(entries, st.integers(-1, 45))
def test_it_keeps_what_a_stable_sort_by_magnitude_puts_first(values: list[float], k: int) -> None:
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
    assert kept(values, k) == sorted(i for i in order[: max(k, 0)] if values[i] != 0)


@modest
@given(entries, st.integers(0, 45), st.integers(0, 45))
def test_a_cut_of_a_cut_is_the_smaller_cut(values: list[float], a: int, b: int) -> None:
    x = torch.tensor(values)
    assert torch.equal(keep_largest(x * keep_largest(x, max(a, b)), min(a, b)), keep_largest(x, min(a, b)))


def test_the_smaller_index_wins_among_equals() -> None:
    assert kept([1.0, -1.0, 2.0, 1.0, -1.0], 3) == [0, 1, 2]


def test_zeros_are_never_kept() -> None:
    assert kept([0.0, 0.0, 0.0, 1.0], 3) == [3]
    assert kept([0.0, 0.0], 2) == []


@pytest.mark.parametrize("k", [1, 7, 500, 999])
def test_the_count_is_exact_on_random_values(k: int) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(k))
    assert int(keep_largest(x, k).sum()) == k


@pytest.mark.parametrize("levels", [2, 50, 10**6])
@pytest.mark.parametrize("k", [0, 1, 137, 100_000, 299_999, 300_000, 400_000])
def test_read_part_by_part_the_same_is_kept(levels: int, k: int) -> None:
    drawn = torch.randint(-levels, levels, (300_000,), generator=torch.Generator().manual_seed(k))
    x = drawn.float() * 0.125
    order = x.abs().sort(descending=True, stable=True).indices[:k]
    expected = torch.zeros_like(x)
    expected[order] = x[order]
    assert torch.equal(read(x, k), expected)
    assert torch.equal(keep_largest(x, k), expected != 0)


@pytest.mark.parametrize("k", [1, 137, 1_999, 2_000])
def test_equals_of_the_last_are_kept_if_asked(k: int) -> None:
    x = torch.randint(-9, 9, (2_000,), generator=torch.Generator().manual_seed(k)).float()
    last = x.abs().sort(descending=True).values[k - 1]
    assert torch.equal(read(x, k, equals=True), x * (x.abs() >= last))


def test_equals_of_nothing_are_nothing() -> None:
    assert not read(torch.ones(5), 0, equals=True).any()


def test_the_delta_is_not_touched_and_not_handed_back() -> None:
    x = torch.tensor([1.0, 2.0])
    largest(x, 2)(slice(0, 2)).fill_(7.0)
    assert x.tolist() == [1.0, 2.0]


def test_tiny_magnitudes_are_told_apart() -> None:
    x = torch.tensor([1e-45, 3e-45, -2.9e-39, 0.0])
    assert read(x, 2).tolist() == [0.0, x[1].item(), x[2].item(), 0.0]
