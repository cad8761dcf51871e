import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.merging.trim import keep_largest

entries = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1e-30, 3.0]), max_size=40)
modest = settings(max_examples=80, deadline=None)


def kept(values: list[float], k: int) -> list[int]:
    return keep_largest(torch.tensor(values), k).nonzero().flatten().tolist()


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
