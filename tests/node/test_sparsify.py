import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from peermerge.node.config import PublishConfig
from peermerge.node.sparsify import Compressed, compress
from peermerge.node.state import State, values
from peermerge.node.vectors import BLOCK
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import DivergedError
from peermerge.protocol.limits import MAX_LEVEL, MIN_EXPONENT
from peermerge.protocol.manifest import Manifest, manifest_of

from .worlds import MANIFEST, framed, free_floors, generators

Floats = npt.NDArray[np.float32]
WIDE = manifest_of([("w", (256, 512), "float32", False)])
LARGE = manifest_of([("w", (1024, 1024), "float32", False), ("v", (256, 256), "float32", False)])
TWO = manifest_of([("a", (512, 512), "float32", False), ("b", (256, 256), "float32", False)])
CHOICES: list[dict[str, Any]] = [
    {},
    {"density": 0.01},
    {"density": 1.0},
    {"density": 0.3, "selection": "tensor"},
    {"density": 0.3, "sparsifier": "random"},
    {"bits": 1.0},
    {"relative_error": 0.2},
    {"bits": 0.5, "selection": "tensor"},
    {"relative_error": 0.01, "selection": "tensor"},
    {"lossless": True},
]


def residue(manifest: Manifest, rng: np.random.Generator, kind: str = "normal", scale: float = 1e-3) -> Floats:
    x = np.zeros(manifest.length, np.float32)
    for _, place in manifest.slices():
        size = place.stop - place.start
        draw = {"heavy": partial(rng.standard_t, 3), "laplace": partial(rng.laplace, 0, 1)}.get(
            kind, rng.standard_normal
        )
        x[place] = np.clip(np.round(draw(size), 1 if kind == "ties" else 9) * scale, -3e38, 3e38)
    return x


def compressed(
    x: Floats, manifest: Manifest = MANIFEST, seed: int = 0, floor: int = MIN_EXPONENT, **budget: Any
) -> Compressed:
    floors = np.full(len(manifest.tensors), floor, np.int8)
    return compress(x, manifest, floors, PublishConfig(**budget), np.random.default_rng(seed))


def decoded(result: Compressed, manifest: Manifest = MANIFEST) -> Floats:
    state = State(manifest, free_floors(manifest))
    state.apply(state.prepare(framed(result.delta, manifest)))
    return np.asarray(values(state).numpy(), np.float32)


def body_bits(delta: Delta, manifest: Manifest) -> float:
    """Return what the entries take in a frame, per parameter."""
    return 8 * framed(delta, manifest).header.body_length / manifest.parameters


kinds = st.sampled_from(["normal", "heavy", "ties"])
scales = st.sampled_from([1e-30, 1e-3, 1.0, 1e20, 2e37])


@settings(max_examples=120, deadline=None)
@given(generators, kinds, scales, st.sampled_from(CHOICES), st.sampled_from([MIN_EXPONENT, -12, 0]))
def test_rule_4_every_compressor_is_contractive_in_every_entry(
    rng: np.random.Generator, kind: str, scale: float, budget: dict[str, Any], floor: int
) -> None:
    x = residue(MANIFEST, rng, kind, scale)
    result = compressed(x, floor=floor, **budget)
    sent = decoded(result).astype(np.float64)
    assert (np.abs(x - sent) <= np.abs(x)).all()
    norm = float(np.linalg.norm(x.astype(np.float64)))
    assert result.residue == pytest.approx(float(np.linalg.norm(x - sent)), rel=1e-5, abs=1e-6 * norm)
    assert 0 <= result.omega <= 1


@settings(max_examples=60, deadline=None)
@given(generators, kinds, st.sampled_from(CHOICES), st.sampled_from([MIN_EXPONENT, -9]))
def test_rule_4_steps_are_at_most_twice_the_smallest_value_sent(
    rng: np.random.Generator, kind: str, budget: dict[str, Any], floor: int
) -> None:
    x = residue(MANIFEST, rng, kind)
    sent = compressed(x, floor=floor, **budget).delta
    bounds = sent.bounds(MANIFEST)
    for t in range(len(MANIFEST.tensors)):
        index = sent.index[bounds[t] : bounds[t + 1]]
        if len(index):
            assert 2.0 ** int(sent.exponents[t]) <= 2 * np.abs(x[index]).min()
    assert (sent.levels * np.sign(x[sent.index]) >= 1).all()


def test_rule_4_a_residue_offered_again_and_again_vanishes() -> None:
    x = residue(WIDE, np.random.default_rng(1))
    first, left = float(np.linalg.norm(x)), x.copy()
    for round_ in range(12):
        result = compressed(left, WIDE, seed=round_, density=0.1)
        left -= decoded(result, WIDE)
        assert np.linalg.norm(left) == pytest.approx(result.residue, rel=1e-4)
    assert np.linalg.norm(left) < 0.1 * first


@pytest.mark.parametrize("budget", CHOICES)
def test_rule_3_one_dimensional_tensors_and_buffers_are_sent_whole_on_a_fine_grid(budget: dict[str, Any]) -> None:
    x = residue(MANIFEST, np.random.default_rng(2))
    sent = decoded(compressed(x, **budget))
    for spec, place in MANIFEST.slices():
        if spec.full:
            step = np.abs(x[place]).max() / 2**7
            assert np.abs(sent[place] - x[place]).max() <= step / 2


def test_rule_3_a_whole_tensor_leaves_less_than_a_hundredth_behind_at_any_density() -> None:
    manifest = manifest_of([("norm.running_var", (512,), "float32", True), ("w", (512, 16), "float32", False)])
    x = residue(manifest, np.random.default_rng(3))
    sent = decoded(compressed(x, manifest, density=0.01), manifest)
    assert np.linalg.norm((x - sent)[:512]) < 0.01 * np.linalg.norm(x[:512])
    assert np.linalg.norm((x - sent)[512:]) > 0.5 * np.linalg.norm(x[512:])


@pytest.mark.parametrize("kind", ["normal", "heavy", "ties"])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.25])
def test_a_density_is_met_exactly_with_ties_and_zeros(kind: str, density: float) -> None:
    x = residue(WIDE, np.random.default_rng(4), kind)
    x[::3] = 0
    result = compressed(x, WIDE, density=density)
    assert len(result.delta) == round(density * WIDE.parameters)
    assert x[result.delta.index].all()
    cut = np.abs(x[result.delta.index]).min()
    assert np.count_nonzero(np.abs(x) > cut) < len(result.delta)
    assert set(np.flatnonzero(np.abs(x) > cut)) <= set(result.delta.index.tolist())


def test_a_density_of_fewer_nonzero_entries_sends_them_all() -> None:
    x = np.zeros(WIDE.length, np.float32)
    x[[5, 70]] = [1e-3, -2e-3]
    assert compressed(x, WIDE, density=0.5).delta.index.tolist() == [5, 70]


def test_selection_by_tensor_gives_every_tensor_its_share() -> None:
    manifest = manifest_of([("a", (100, 10), "float32", False), ("b", (100, 10), "float32", False)])
    x = residue(manifest, np.random.default_rng(5))
    x[manifest.starts[1] :] *= 1e-3
    by_tensor = compressed(x, manifest, density=0.1, selection="tensor").delta.bounds(manifest)
    overall = compressed(x, manifest, density=0.1).delta.bounds(manifest)
    assert np.diff(by_tensor).tolist() == [100, 100]
    assert np.diff(overall).tolist() == [200, 0]


def test_a_random_choice_follows_its_generator() -> None:
    x = residue(WIDE, np.random.default_rng(6))
    one, same, other = (compressed(x, WIDE, seed=s, density=0.1, sparsifier="random").delta for s in (1, 1, 2))
    assert np.array_equal(one.index, same.index)
    assert not np.array_equal(one.index, other.index)
    assert len(one) == pytest.approx(0.1 * WIDE.parameters, rel=0.02)


KINDS = ["normal", "heavy", "laplace"]


@pytest.mark.parametrize("selection", ["global", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.9, 0.3, 0.05, 0.02, 0.001])
def test_a_relative_error_is_met_within_three_per_cent(kind: str, share: float, selection: str) -> None:
    x = residue(TWO, np.random.default_rng(7), kind)
    result = compressed(x, TWO, relative_error=share, selection=selection)
    assert result.residue**2 / float(np.square(x, dtype=np.float64).sum()) == pytest.approx(share, rel=0.03)
    assert 1 - result.omega == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("selection", ["global", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_bits_per_parameter_are_met_within_three_per_cent_by_the_frame(kind: str, bits: float, selection: str) -> None:
    x = residue(TWO, np.random.default_rng(8), kind)
    delta = compressed(x, TWO, bits=bits, selection=selection).delta
    assert body_bits(delta, TWO) == pytest.approx(bits, rel=0.03)


@pytest.mark.parametrize("bits", [0.1, 1.0])
def test_bits_are_met_where_entries_cluster_and_the_entropy_of_independent_ones_misleads(bits: float) -> None:
    x = residue(TWO, np.random.default_rng(9), "laplace")
    x *= np.repeat(np.exp(2 * np.random.default_rng(9).standard_normal(TWO.length // 64)), 64).astype(np.float32)
    assert body_bits(compressed(x, TWO, bits=bits).delta, TWO) == pytest.approx(bits, rel=0.03)


def test_whole_tensors_do_not_count_towards_a_budget() -> None:
    whole = manifest_of(
        [("norm", (4096,), "float32", True), *((t.name, t.shape, t.dtype, t.full) for t in TWO.tensors)]
    )
    x = residue(TWO, np.random.default_rng(10))
    alone = compressed(x, TWO, bits=0.5)
    beside = compressed(np.concatenate([np.ones(4096, np.float32), x]), whole, bits=0.5)
    assert np.array_equal(beside.delta.index[4096:] - 4096, alone.delta.index)
    assert (beside.omega, beside.delta.exponents[1]) == (alone.omega, alone.delta.exponents[0])


def test_a_budget_that_the_floor_does_not_allow_gets_all_that_half_a_step_reaches() -> None:
    x = residue(TWO, np.random.default_rng(11))
    budgets: list[dict[str, Any]] = [{"bits": 8.0}, {"relative_error": 1e-6}]
    for budget in budgets:
        sent = compressed(x, TWO, floor=-10, **budget).delta
        assert np.array_equal(sent.index, np.flatnonzero(np.abs(x) >= 2.0**-11))
        assert set(sent.exponents.tolist()) == {-10}


def test_an_approximate_threshold_sends_about_as_much() -> None:
    x = residue(LARGE, np.random.default_rng(12))
    exact, about = (compressed(x, LARGE, density=0.5, approximate=a) for a in (False, True))
    assert len(about.delta) != len(exact.delta)
    assert len(about.delta) == pytest.approx(0.5 * LARGE.parameters, rel=0.05)
    assert about.omega == pytest.approx(exact.omega, rel=0.05)


SPARING: list[dict[str, Any]] = [
    {"density": 0.01},
    {"density": 0.01, "selection": "tensor"},
    {"density": 0.01, "sparsifier": "random"},
    {"bits": 0.05},
    {"relative_error": 0.95},
]


@pytest.mark.parametrize("budget", SPARING)
def test_memory_is_taken_for_blocks_and_for_what_is_sent(budget: dict[str, Any]) -> None:
    x = residue(LARGE, np.random.default_rng(13))
    tracemalloc.start()
    sent = compressed(x, LARGE, **budget).delta
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(sent) + 24 * BLOCK < x.nbytes


@pytest.mark.parametrize("budget", ["bits", "relative_error"])
def test_entries_drawn_at_random_cannot_be_asked_to_meet_a_budget(budget: str) -> None:
    with pytest.raises(ValidationError, match="needs a density"):
        PublishConfig.model_validate({budget: 0.5, "sparsifier": "random"})


def test_lossless_leaves_next_to_nothing() -> None:
    x = residue(MANIFEST, np.random.default_rng(9), "heavy")
    result = compressed(x, lossless=True)
    assert result.omega == 1.0
    assert result.residue < 1e-6 * np.linalg.norm(x)


def test_nothing_to_send_is_an_empty_delta() -> None:
    for budget in CHOICES:
        result = compressed(np.zeros(MANIFEST.length, np.float32), **budget)
        assert (len(result.delta), result.omega, result.residue) == (0, 1.0, 0.0)


def test_only_whole_tensors_or_no_entries_at_all_are_fine() -> None:
    manifest = manifest_of([("b", (3,), "float32", True), ("none", (0, 2), "float32", False)])
    x = residue(manifest, np.random.default_rng(1))
    assert len(compressed(x, manifest).delta) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_never_published(value: float) -> None:
    x = residue(MANIFEST, np.random.default_rng(10))
    x[-100] = value
    with pytest.raises(DivergedError, match="learning rate"):
        compressed(x)


def test_rule_12_the_publisher_clamps_levels_and_grids() -> None:
    x = np.zeros(MANIFEST.length, np.float32)
    x[:4] = [3.4e38, -3.4e38, 1e-45, 1.0]
    sent = compressed(x, lossless=True).delta
    sent.check(MANIFEST)
    assert np.abs(sent.levels).max() <= MAX_LEVEL


@pytest.mark.parametrize("budget", CHOICES)
def test_rule_12_no_grid_is_finer_than_the_floor_and_half_a_step_still_counts_as_one(budget: dict[str, Any]) -> None:
    x = np.zeros(MANIFEST.length, np.float32)
    x[:3] = [2.0**-4, -(2.0**-4), 2.0**-4 * 0.99]
    chosen: dict[str, Any] = budget | ({"density": 1.0} if "sparsifier" in budget else {})
    sent = compressed(x, floor=-3, **chosen).delta
    assert sent.exponents.min() >= -3
    if "lossless" not in budget:
        assert sent.levels[sent.index == 0].tolist() == [1]
        assert 2 not in sent.index
