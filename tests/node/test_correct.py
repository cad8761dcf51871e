import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from peermerge.node.correct import (
    DENSE_STEP,
    HEADROOM,
    Contribution,
    corrections,
    distance,
    edge_seed,
    measured_fresh,
    measured_gamma,
    wire_float,
)
from peermerge.node.merging import Site, make_method
from peermerge.node.merging.average import WeightedMean
from peermerge.node.merging.method import MergeMethod, Reference, Scope
from peermerge.node.state import State, values
from peermerge.protocol.manifest import manifest_of

from .worlds import MANIFEST, framed, fresh_state, random_delta

CPU = torch.device("cpu")
BASE = torch.zeros(MANIFEST.length)
METHODS = ["weighted-mean", "ties", "dare-linear", "dare-ties", "cosine", "pcb", "tsvm"]


def state(seed: int, steps: int = 2) -> State:
    found, rng = fresh_state(), np.random.default_rng(seed)
    for _ in range(steps):
        found.apply(found.prepare(framed(random_delta(rng))))
    return found


def others(count: int = 3) -> list[Contribution]:
    return [Contribution(f"peer-{i}", state(i + 1), 0.1 + 0.1 * i, seed=1000 + i) for i in range(count)]


def corrected(
    method: MergeMethod, own: State, contributions: list[Contribution], reference: Reference = "own"
) -> torch.Tensor:
    total = torch.zeros(MANIFEST.length)
    places = [place for _, place in MANIFEST.slices()]
    for t, correction in corrections(method, Contribution("own", own, 0.0), contributions, reference, BASE):
        total[places[t]] += correction
    return total


def test_the_weighted_mean_moves_towards_each_neighbour_by_its_weight() -> None:
    own, contributions = state(0), others()
    expected = sum((c.weight * (values(c.state) - values(own)) for c in contributions), torch.zeros(()))
    for reference in ("own", "base"):
        moved = corrected(WeightedMean(), own, contributions, reference)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_without_neighbours_nothing_moves() -> None:
    assert list(corrections(WeightedMean(), Contribution("own", state(0), 0.0), [], "own", BASE)) == []


def test_equal_states_ask_for_no_correction() -> None:
    own = state(0)
    twins = [Contribution("b", own.copy(), 0.3), Contribution("c", own.copy(), 0.3)]
    assert not corrected(WeightedMean(), own, twins).any()


@pytest.mark.parametrize("reference", ["own", "base"])
@pytest.mark.parametrize("name", METHODS)
def test_rule_14_contributors_in_any_order_give_equal_bits(name: str, reference: Reference) -> None:
    own, contributions, method = state(0), others(), make_method(name, {})
    first = corrected(method, own, contributions, reference)
    assert first.any()
    for order in itertools.permutations(contributions):
        assert torch.equal(corrected(method, own, list(order), reference), first)


@pytest.mark.parametrize("name", METHODS)
def test_rule_14_the_number_of_threads_changes_no_bit(name: str) -> None:
    own, contributions, method = state(0), others(), make_method(name, {})
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(corrected(method, own, contributions))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", METHODS)
def test_rule_3_one_dimensional_tensors_and_buffers_take_the_mean_whatever_the_method(name: str) -> None:
    own, contributions = state(0), others()
    mean, found = corrected(WeightedMean(), own, contributions), corrected(make_method(name, {}), own, contributions)
    for spec, place in MANIFEST.slices():
        if spec.full:
            assert torch.equal(found[place], mean[place])


def test_a_global_method_sees_all_sparse_tensors_at_once() -> None:
    own, contributions = state(0), others()
    ranked, by_tensor = make_method("ties", {"scope": "global"}), make_method("ties", {"scope": "tensor"})
    one, other = corrected(ranked, own, contributions), corrected(by_tensor, own, contributions)
    assert one.any()
    assert not torch.equal(one, other)
    for spec, place in MANIFEST.slices():
        if spec.full:
            assert torch.equal(one[place], other[place])


def test_the_distance_is_euclidean_and_symmetric() -> None:
    own, other = state(0), state(1)
    expected = float((values(own).double() - values(other).double()).norm())
    assert distance(own, other, CPU) == pytest.approx(expected, rel=1e-6)
    assert distance(own, other, CPU) == distance(other, own, CPU)
    assert distance(own, own.copy(), CPU) == 0


def test_rule_1_the_step_is_the_share_removed_and_damped_in_dense_graphs() -> None:
    assert measured_gamma(0.3, dense=False) == 0.3
    assert measured_gamma(0.3, dense=True) == pytest.approx(0.3 * DENSE_STEP)
    assert measured_gamma(1.0, dense=True) == 1.0
    assert measured_gamma(1.5, dense=False) == 1.0


def test_fresh_entries_take_a_full_step_while_training_moves_more_than_corrections() -> None:
    assert measured_fresh(0.0, 1.0) == measured_fresh(0.0, 0.0) == 0.0
    assert measured_fresh(1.0, 0.0) == measured_fresh(1.0, 1.0) == measured_fresh(1.0, HEADROOM) == 1.0
    assert measured_fresh(1.0, 2 * HEADROOM) == 0.5


def test_both_ends_of_an_edge_move_by_opposite_amounts_at_either_step() -> None:
    one, other = state(0), state(1)
    there = corrected(WeightedMean(), one, [Contribution("b", other, 0.25, 0.3, 0.9)])
    back = corrected(WeightedMean(), other, [Contribution("a", one, 0.25, 0.3, 0.9)])
    assert there.any()
    assert torch.equal(there, -back)


def test_entries_of_either_newest_frame_and_whole_tensors_take_the_fresh_step() -> None:
    one, other = state(0), state(1)
    moved = corrected(WeightedMean(), one, [Contribution("b", other, 1.0, 0.25, 1.0)])
    difference, fresh = (
        values(other) - values(one),
        np.flatnonzero(np.unpackbits(one.fresh | other.fresh, bitorder="little")),
    )
    for spec, place in MANIFEST.slices():
        step = np.where(spec.full | np.isin(np.arange(place.start, place.stop), fresh), 1.0, 0.25)
        expected = difference[place] * torch.from_numpy(step).float()
        torch.testing.assert_close(moved[place], expected, rtol=1e-5, atol=1e-6)


def test_a_model_without_sparse_tensors_is_merged_by_any_method() -> None:
    manifest = manifest_of([("b", (3,), "float32", True)])
    own, rng = fresh_state(manifest), np.random.default_rng(0)
    other = own.copy()
    other.apply(other.prepare(framed(random_delta(rng, manifest, density=1.0), manifest)))
    for method in (make_method("weighted-mean", {}), make_method("ties", {"scope": "global"})):
        found = list(corrections(method, Contribution("a", own, 0.0), [Contribution("b", other, 0.5)], "own", BASE))
        assert [t for t, _ in found] == [0]


def test_both_ends_of_an_edge_compute_with_the_wires_numbers_and_one_seed() -> None:
    assert wire_float(0.1) == float(np.float32(0.1)) != 0.1
    assert edge_seed("a", "b", 3) == edge_seed("b", "a", 3)
    assert len({edge_seed("a", "b", 3), edge_seed("a", "b", 4), edge_seed("a", "c", 3)}) == 3


class Recorded(MergeMethod):
    """A method that remembers what it merged."""

    def __init__(self, method: MergeMethod) -> None:
        self.method = method
        self.sees_own = method.sees_own  # type: ignore[misc]
        self.found: list[torch.Tensor] = []

    @property
    def scope(self) -> Scope:
        return self.method.scope

    def merge(self, deltas: Sequence[torch.Tensor], site: Site) -> torch.Tensor:
        self.found.append(self.method.merge(deltas, site))
        return self.found[-1]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "cosine"])
def test_nodes_that_merge_the_same_states_relative_to_the_base_merge_the_same_bits(name: str) -> None:
    states = {peer: state(seed) for seed, peer in enumerate(("a", "b", "c"))}
    merges = []
    for own in states:
        others = [Contribution(n, s, wire_float(1 / 3), seed=ord(n)) for n, s in states.items() if n != own]
        method = Recorded(make_method(name, {}))
        list(corrections(method, Contribution(own, states[own], 0.0, seed=ord(own)), others, "base", BASE))
        merges.append(method.found)
    for one, other in itertools.pairwise(merges):
        assert len(one) == len(other) > 0
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
