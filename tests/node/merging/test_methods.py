"""What every merge method must do. New methods are picked up from the table."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.merging import METHODS, Reference, blocks, make_method
from peermerge.protocol.errors import ConfigError

from .places import draw, merged

ORDER_MATTERS: set[str] = {"magmax", "nuslerp", "karcher", "cosine", "opcm"}
REFERENCES: tuple[Reference, ...] = ("own", "base")

CHOOSY = {"nearswap", "arcee-fusion", "breadcrumbs", "breadcrumbs-ties"}
"""Methods that leave entries alone by design: those far apart, all but the most important, the largest."""
SHAPES = ((), (0,), (1,), (1, 7), (7, 1), (5, 6), (0, 3), (2, 3, 2, 2))

modest = settings(max_examples=25, deadline=None)
lengths = st.integers(0, 50)
seeds_drawn = st.integers(0, 2**31)
every_method = pytest.mark.parametrize("name", METHODS)
both_references = pytest.mark.parametrize("reference", REFERENCES)


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
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_tensors_of_any_shape_give_finite_vectors_of_their_length(
    name: str, reference: Reference, shape: tuple[int, ...], count: int
) -> None:
    result = merged(make_method(name, {}), draw(count, shape, 5), reference, shape=shape)
    assert result.shape == (math.prod(shape),)
    assert bool(result.isfinite().all())


@every_method
@both_references
def test_blocks_of_any_size_give_equal_bits(name: str, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = draw(3, (10, 12), 6)
    whole = merged(make_method(name, {}), deltas, reference, shape=(10, 12))
    monkeypatch.setattr(blocks, "BLOCK", 7)
    assert torch.equal(merged(make_method(name, {}), deltas, reference, shape=(10, 12)), whole)


@pytest.mark.parametrize("name", [name for name in METHODS if make_method(name, {}).sparse])
@both_references
@modest
@given(count=st.integers(1, 4), length=st.integers(1, 80), seed=seeds_drawn)
def test_a_sparse_merge_of_the_entries_that_are_there_equals_the_dense_one(
    name: str, reference: Reference, count: int, length: int, seed: int
) -> None:
    method, random = make_method(name, {}), torch.Generator().manual_seed(seed)
    deltas = [delta * (torch.rand(length, generator=random) < 0.3) for delta in draw(count, length, seed)]
    dense = merged(method, deltas, reference)
    there = torch.stack(deltas).any(0).nonzero().flatten()
    found = torch.zeros(length)
    found[there] = merged(method, [delta[there] for delta in deltas], reference, shape=(length,))
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-7)


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
    deltas, weights, method = draw(4, length, seed), [0.125, 0.25, 0.25, 0.25], make_method(name, {})
    straight = merged(method, deltas, reference, weights=weights, seeds=range(4))
    turned = [deltas[i] for i in order]
    shuffled = merged(method, turned, reference, weights=[weights[i] for i in order], seeds=order)
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
        to_b = merged(method, [b - a], "own", seeds=[2 * seed])
        to_a = merged(method, [a - b], "own", seeds=[2 * seed + 1])
        a, b = a + to_b, b + to_a
    assert float((a - b).norm()) <= (1.0 if name in CHOOSY else 0.05) * start


@every_method
@both_references
def test_every_contributor_needs_a_weight(name: str, reference: Reference) -> None:
    with pytest.raises((ValueError, IndexError)):
        merged(make_method(name, {}), draw(2, 3, 0), reference, weights=[1.0], seeds=range(2))


@every_method
def test_methods_are_values(name: str) -> None:
    assert make_method(name, {}) == make_method(name, {})
    assert hash(make_method(name, {})) == hash(make_method(name, {}))


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
        ("dare-linear", {"density": 0.0}, "density = 0.0"),
        ("dare-linear", {"density": math.nan}, "density = nan"),
        ("dare-ties", {"density": -0.1}, "density = -0.1"),
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
