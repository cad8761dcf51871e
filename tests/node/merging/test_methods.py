"""What every merge method must do. New methods are picked up from the table."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peermerge.node.merging import METHODS, MergeMethod, Reference, make_method
from peermerge.protocol.errors import ConfigError

ORDER_MATTERS: set[str] = set()
REFERENCES: tuple[Reference, ...] = ("own", "base")

modest = settings(max_examples=25, deadline=None)
lengths = st.integers(0, 50)
seeds_drawn = st.integers(0, 2**31)
every_method = pytest.mark.parametrize("name", METHODS)
both_references = pytest.mark.parametrize("reference", REFERENCES)


def draw(count: int, length: int, seed: int) -> list[Tensor]:
    """Draw deltas with zeros, as sparse ones have, and some equal magnitudes."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(-4, 5, (length,), generator=random).float() * 0.25 for _ in range(count)]


def merged(method: MergeMethod, deltas: Sequence[Tensor], reference: Reference) -> Tensor:
    """Merge with equal weights; own keeps as much as a neighbour."""
    count = len(deltas) + (reference == "own")
    return method.merge(deltas, [1 / count] * len(deltas), reference=reference, seeds=range(len(deltas)))


@every_method
def test_a_method_without_neighbours_corrects_nothing(name: str) -> None:
    correction = merged(make_method(name, {}), [], "own")
    assert torch.equal(torch.ones(5) + correction, torch.ones(5))


@every_method
@both_references
def test_equal_states_stay_where_they_are(name: str, reference: Reference) -> None:
    result = merged(make_method(name, {}), [torch.zeros(9)] * 3, reference)
    assert torch.equal(result, torch.zeros(9))


@every_method
@both_references
@modest
@given(count=st.integers(1, 5), length=lengths, seed=seeds_drawn)
def test_results_are_finite_float32_vectors_of_the_same_length(
    name: str, reference: Reference, count: int, length: int, seed: int
) -> None:
    result = merged(make_method(name, {}), draw(count, length, seed), reference)
    assert result.shape == (length,)
    assert result.dtype == torch.float32
    assert bool(result.isfinite().all())


@every_method
@both_references
@modest
@given(count=st.integers(1, 5), length=lengths, seed=seeds_drawn)
def test_inputs_are_not_touched_and_not_handed_back(
    name: str, reference: Reference, count: int, length: int, seed: int
) -> None:
    deltas = draw(count, length, seed)
    copies = [delta.clone() for delta in deltas]
    merged(make_method(name, {}), deltas, reference).fill_(7.0)
    assert all(torch.equal(delta, copy) for delta, copy in zip(deltas, copies, strict=True))


@every_method
@both_references
@modest
@given(count=st.integers(1, 5), length=lengths, seed=seeds_drawn)
def test_the_same_seeds_give_the_same_bits(name: str, reference: Reference, count: int, length: int, seed: int) -> None:
    deltas = draw(count, length, seed)
    assert torch.equal(*(merged(make_method(name, {}), deltas, reference) for _ in range(2)))


@every_method
@both_references
@modest
@given(st.permutations(range(4)), st.integers(1, 50), seeds_drawn)
def test_the_order_of_contributors_does_not_matter(
    name: str, reference: Reference, order: list[int], length: int, seed: int
) -> None:
    if name in ORDER_MATTERS:
        pytest.skip("the paper's rule depends on the order")
    deltas, weights, method = draw(4, length, seed), [0.125, 0.25, 0.25, 0.375], make_method(name, {})
    straight = method.merge(deltas, weights, reference=reference, seeds=range(4))
    shuffled = method.merge([deltas[i] for i in order], [weights[i] for i in order], reference=reference, seeds=order)
    torch.testing.assert_close(straight, shuffled)


@every_method
@both_references
def test_merging_slices_of_flat_vectors_equals_merging_separate_tensors(name: str, reference: Reference) -> None:
    method, sizes = make_method(name, {}), [3, 0, 1, 17, 8]
    flat = draw(4, sum(sizes), 3)
    views = [torch.split(delta, sizes) for delta in flat]
    for t in range(len(sizes)):
        slices = [view[t] for view in views]
        separate = [part.clone() for part in slices]
        assert torch.equal(merged(method, slices, reference), merged(method, separate, reference))


@every_method
@modest
@given(length=st.integers(1, 50), seed=seeds_drawn)
def test_one_voter_of_eight_moves_a_lonely_entry_by_no_more_than_its_weight(name: str, length: int, seed: int) -> None:
    voter, silent = draw(1, length, seed)[0], torch.zeros(length)
    result = merged(make_method(name, {}), [silent, silent, voter, *[silent] * 4], "own")
    assert bool((result.abs() <= voter.abs() / 8 + 1e-7).all())


def test_a_mean_over_voters_would_fail_the_test_of_the_lonely_entry() -> None:
    voter, silent = torch.tensor([1.0, 0.0]), torch.zeros(2)
    result = merged(make_method("ties", {}), [voter, *[silent] * 7], "base")
    assert result[0] == 1.0


@every_method
def test_corrections_of_two_nodes_bring_them_together(name: str) -> None:
    method, (a, b) = make_method(name, {}), draw(2, 200, 4)
    start = float((a - b).norm())
    for seed in range(200):
        to_b = method.merge([b - a], [0.5], reference="own", seeds=[2 * seed])
        to_a = method.merge([a - b], [0.5], reference="own", seeds=[2 * seed + 1])
        a, b = a + to_b, b + to_a
    assert float((a - b).norm()) < 0.05 * start


@every_method
@both_references
def test_every_contributor_needs_a_weight(name: str, reference: Reference) -> None:
    with pytest.raises(ValueError, match="zip"):
        make_method(name, {}).merge(draw(2, 3, 0), [1.0], reference=reference, seeds=range(2))


@every_method
def test_methods_are_values(name: str) -> None:
    assert make_method(name, {}) == make_method(name, {})
    assert hash(make_method(name, {})) == hash(make_method(name, {}))
    assert make_method(name, {}).scope == "tensor"


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("tise", {}, "unknown merge method 'tise': did you mean 'ties'"),
        ("weighted-mean", {"scale": 1.0}, "no parameter 'scale'"),
        ("weighted-mean", {"scope": "global"}, "no parameter 'scope'"),
        ("task-arithmetic", {"scale": math.nan}, "scale = nan"),
        ("ties", {"densty": 0.1}, "did you mean 'density'"),
        ("ties", {"density": 0.0}, "density = 0.0"),
        ("ties", {"density": 1.1}, "density = 1.1"),
        ("ties", {"density": "0.1"}, "density = '0.1'"),
        ("ties", {"scale": math.inf}, "scale = inf"),
        ("ties", {"scope": "layer"}, "scope = 'layer'"),
        ("dare-linear", {"drop": 1.0}, "drop = 1.0"),
        ("dare-linear", {"drop": math.nan}, "drop = nan"),
        ("dare-ties", {"drop": -0.1}, "drop = -0.1"),
    ],
)
def test_impossible_hyperparameters_are_refused_with_their_cure(
    name: str, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method(name, parameters)


@every_method
@both_references
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_method_makes_the_host_wait_for_the_gpu(name: str, reference: Reference) -> None:
    method, deltas = make_method(name, {}), [delta.cuda() for delta in draw(3, 1000, 1)]
    merged(method, deltas, reference)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = merged(method, deltas, reference)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.device.type == "cuda"
    assert bool(result.isfinite().all())
