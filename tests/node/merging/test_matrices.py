"""What every method that looks at a weight as a matrix must do on matrices."""

from typing import Any

import pytest
import torch

from peermerge.node.merging import Reference, make_method
from peermerge.protocol.errors import ConfigError

from .matrix_cases import SHAPES, awkward
from .places import draw, merged

METHODS: dict[str, dict[str, Any]] = {
    "tsvm": {},
    "iso-c": {},
    "iso-cts": {},
    "opcm": {},
    "doge": {"steps": 5},
    "wudi": {"steps": 5},
    "widen": {},
}
MEAN_ELSEWHERE = ["tsvm", "iso-c", "iso-cts", "wudi", "doge"]

every_method = pytest.mark.parametrize("name", METHODS)
both_references = pytest.mark.parametrize("reference", ["own", "base"])


@every_method
@both_references
@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_matrices_have_finite_merges_of_the_same_bits_every_time(
    name: str, reference: Reference, shape: tuple[int, int]
) -> None:
    method = make_method(name, METHODS[name])
    for deltas in awkward(shape).values():
        results = [merged(method, deltas, reference, shape=shape) for _ in range(2)]
        assert torch.equal(*results)
        assert results[0].dtype == torch.float32
        assert results[0].shape == deltas[0].shape
        assert bool(results[0].isfinite().all())


@every_method
@both_references
@pytest.mark.parametrize("shape", [(6, 6), (1, 7)])
def test_matrices_that_nobody_changed_stay(name: str, reference: Reference, shape: tuple[int, int]) -> None:
    deltas = awkward(shape)["zeros"]
    assert not bool(merged(make_method(name, METHODS[name]), deltas, reference, shape=shape).any())


@every_method
@both_references
def test_matrices_are_not_touched(name: str, reference: Reference) -> None:
    deltas = awkward((6, 6))["distinct"]
    copies = [delta.clone() for delta in deltas]
    merged(make_method(name, METHODS[name]), deltas, reference, shape=(6, 6)).fill_(7.0)
    assert all(torch.equal(delta, copy) for delta, copy in zip(deltas, copies, strict=True))


@every_method
@both_references
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (0, 3), (3, 0), (2, 3, 2), (2, 2, 1, 3)])
def test_tensors_of_other_shapes_have_a_merge_of_their_length(
    name: str, reference: Reference, shape: tuple[int, ...]
) -> None:
    deltas = draw(3, shape, 0)
    result = merged(make_method(name, METHODS[name]), deltas, reference, shape=shape)
    assert result.shape == deltas[0].shape
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("name", MEAN_ELSEWHERE)
def test_tensors_that_are_no_matrices_come_to_their_weighted_mean(name: str) -> None:
    deltas = [torch.tensor([4.0, 0.0]), torch.tensor([0.0, -8.0])]
    result = merged(make_method(name, METHODS[name]), deltas, "base", weights=[1.0, 3.0])
    assert result.tolist() == [1.0, -6.0]


@every_method
def test_nobody_moves_an_entry_of_a_matrix_by_more_than_its_weight(name: str) -> None:
    voter, *silent = awkward((5, 5))["distinct"][0], torch.zeros(25), torch.zeros(25)
    result = merged(make_method(name, METHODS[name]), [voter, *silent], "own", shape=(5, 5))
    assert bool((result.abs() <= voter.abs() / 4 + 1e-7).all())


@every_method
def test_two_nodes_come_closer_in_their_matrices_and_never_part(name: str) -> None:
    method, (a, b, _) = make_method(name, METHODS[name]), awkward((6, 4))["distinct"]
    start = last = float((a - b).norm())
    for _ in range(200):
        to_b, to_a = (merged(method, [d], "own", shape=(6, 4)) for d in (b - a, a - b))
        a, b = a + to_b, b + to_a
        assert float((a - b).norm()) <= last * (1 + 1e-6)
        last = float((a - b).norm())
    assert last < 0.5 * start


@every_method
def test_every_matrix_needs_a_weight(name: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        merged(make_method(name, METHODS[name]), draw(2, (3, 3), 0), "base", shape=(3, 3), weights=[1.0], seeds=[0])


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("tsvm", {"scale": float("nan")}, "scale = nan"),
        ("tsvm", {"variant": "mergekit"}, "variant = 'mergekit'"),
        ("iso-c", {"scale": float("inf")}, "scale = inf"),
        ("iso-cts", {"common": 1.5}, "common = 1.5"),
        ("opcm", {"alpha": 1.0}, "alpha = 1.0"),
        ("opcm", {"skip": "("}, "is no regular expression"),
        ("doge", {"density": 0.0}, "density = 0.0"),
        ("doge", {"subspace": 0}, "subspace = 0"),
        ("doge", {"skip": "["}, "is no regular expression"),
        ("wudi", {"steps": -1}, "steps = -1"),
        ("wudi", {"rate": 0.0}, "rate = 0.0"),
        ("widen", {"ratio": float("nan")}, "ratio = nan"),
        ("widen", {"embedding": "*"}, "is no regular expression"),
    ],
)
def test_impossible_hyperparameters_are_refused(name: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_method(name, parameters)
