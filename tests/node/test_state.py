from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peermerge.node.state import PRIME, State, floors, values
from peermerge.protocol.codec import Source
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.limits import MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from peermerge.protocol.manifest import manifest_of

from .worlds import MANIFEST, delta, equal, exact, framed, free_floors, fresh_state, generators, random_delta

CPU = torch.device("cpu")
modest = settings(max_examples=30, deadline=None)
W, B, HEAD = (MANIFEST.starts[t] for t in (0, 1, 4))


def add(state: State, *deltas: Source) -> State:
    for step in deltas:
        state.apply(state.prepare(framed(step)))
    return state


def digest(step: Delta) -> int:
    return add(fresh_state(), step).digest


@modest
@given(generators, st.integers(1, 8))
def test_a_state_is_the_exact_sum_of_its_deltas_in_any_order(rng: np.random.Generator, count: int) -> None:
    deltas = [random_delta(rng) for _ in range(count)]
    forwards, backwards = add(fresh_state(), *deltas), add(fresh_state(), *reversed(deltas))
    total = np.sum([exact(add(fresh_state(), step)) for step in deltas], axis=0)
    assert equal(forwards, backwards)
    assert exact(forwards) == total.tolist()


@modest
@given(generators)
def test_a_snapshot_is_one_delta_that_leads_from_the_base_to_the_state(rng: np.random.Generator) -> None:
    state = add(fresh_state(), *(random_delta(rng) for _ in range(4)))
    assert equal(state, add(fresh_state(), state))


@modest
@given(generators)
def test_rule_8_the_state_digest_follows_from_deltas_whatever_their_grids(rng: np.random.Generator) -> None:
    one, two = random_delta(rng), random_delta(rng)
    state = add(fresh_state(), one, two)
    assert state.digest == (digest(one) + digest(two)) % PRIME
    finer = Delta(one.exponents - 3, one.index, one.levels * 8)
    assert digest(finer) == digest(one)


@modest
@given(generators, st.integers(0, 28))
def test_rule_8_the_state_digest_tells_values_and_places_apart(rng: np.random.Generator, bit: int) -> None:
    one = random_delta(rng, density=0.5)
    other = Delta(one.exponents, one.index, one.levels.copy())
    other.levels[rng.integers(len(one))] ^= 1 << bit
    assume(other.levels.all())
    assert digest(one) != digest(other)
    assert digest(delta([3], [5])) != digest(delta([4], [5]))
    assert digest(delta([], [])) == 0


def test_a_copy_is_independent() -> None:
    state = add(fresh_state(), delta([1], [4]))
    twin = state.copy()
    add(state, delta([1], [4], -20))
    assert equal(twin, add(fresh_state(), delta([1], [4])))


def test_levels_loaded_from_a_disk_give_the_same_digest() -> None:
    state = add(fresh_state(), delta([1, int(HEAD)], [4, -9]))
    assert equal(state, State(MANIFEST, free_floors(), state.levels, state.exponents))


@modest
@given(generators)
def test_values_and_differences_are_rounded_once(rng: np.random.Generator) -> None:
    one = add(fresh_state(), random_delta(rng), random_delta(rng))
    other = add(fresh_state(), random_delta(rng))
    flat = np.array([v * 2.0**MIN_EXPONENT for v in exact(one)], np.float32)
    apart = np.array([(a - b) * 2.0**MIN_EXPONENT for a, b in zip(exact(one), exact(other), strict=True)], np.float32)
    assert np.array_equal(values(one).numpy(), flat)
    for t, (_, place) in enumerate(MANIFEST.slices()):
        assert np.array_equal(one.minus(other, t, CPU).numpy(), apart[place])


def test_rule_12_the_smallest_and_the_largest_level_are_normal_finite_numbers() -> None:
    small = add(fresh_state(), delta([0], [1], MIN_EXPONENT))
    large = add(fresh_state(), delta([0], [MAX_LEVEL], MAX_EXPONENT))
    assert small.tensor(0, CPU)[0].item() == torch.finfo(torch.float32).smallest_normal
    assert torch.isfinite(large.tensor(0, CPU)).all()


def test_rule_12_a_level_of_two_to_the_thirty_is_refused() -> None:
    state = add(fresh_state(), delta([0], [MAX_LEVEL]))
    before = state.copy()
    refused(state, delta([0], [1]))
    refused(state, delta([0], [1], -11))
    refused(state, delta([1], [1], -40))
    refused(state, delta([1], [1], MIN_EXPONENT))
    assert equal(before, state)
    add(state, delta([0], [-MAX_LEVEL]), delta([1], [7], MIN_EXPONENT))
    assert state.levels[0] == 0
    assert state.exponents[0] == MIN_EXPONENT


def test_rule_12_a_level_on_a_grid_far_above_the_state_is_refused() -> None:
    state = add(fresh_state(), delta([0], [1], -60))
    refused(state, delta([1], [1], -29))
    refused(state, delta([1], [1], MAX_EXPONENT))
    refused(state, delta([0], [-1], -29))
    add(state, delta([1], [1], -31))
    assert exact(state)[1] == 1 << (MIN_EXPONENT * -1 - 31)


def test_rule_12_floors_lie_the_grid_bits_below_the_largest_base_value() -> None:
    manifest = manifest_of([(n, (2,), "float32", True) for n in "abcdef"] + [("g", (0,), "float32", True)])
    base = torch.zeros(manifest.length)
    for place, value in zip((p for _, p in manifest.slices()), [1.0, -0.75, 0.0, 1e-45, 3e38, 1.0], strict=False):
        base[place.start + 1] = value
    assert floors(manifest, base, 24)[:4].tolist() == [-24, -25, -24, MIN_EXPONENT]
    assert floors(manifest, base, 24)[4] <= MAX_EXPONENT
    assert floors(manifest, base, 4)[0] == -4


def test_rule_12_a_grid_finer_than_the_floor_is_refused() -> None:
    state = State(MANIFEST, np.full(len(MANIFEST.tensors), -12, np.int8))
    refused(state, delta([0], [1], -13))
    add(state, delta([0], [1], -12))


def refused(state: State, step: Delta, refusal: Refusal = Refusal.OVERFLOW) -> None:
    before = state.copy()
    with pytest.raises(FrameError) as caught:
        state.prepare(framed(step))
    assert caught.value.refusal == refusal
    assert equal(before, state)


HOSTILE: dict[str, tuple[Callable[[], Delta], Refusal]] = {
    "below the space": (lambda: delta([-1], [1]), Refusal.BAD_INDEX),
    "beyond the space": (lambda: delta([MANIFEST.length], [1]), Refusal.BAD_INDEX),
    "unsorted": (lambda: delta([3, 2], [1, 1]), Refusal.BAD_INDEX),
    "twice": (lambda: delta([3, 3], [1, 1]), Refusal.BAD_INDEX),
    "padding": (lambda: delta([int(W) + 65], [1]), Refusal.BAD_INDEX),
    "last padding": (lambda: delta([MANIFEST.length - 1], [1]), Refusal.BAD_INDEX),
    "zero level": (lambda: delta([3], [0]), Refusal.OVERFLOW),
    "level too large": (lambda: delta([3], [MAX_LEVEL + 1]), Refusal.OVERFLOW),
    "most negative level": (lambda: delta([3], [-(2**31)]), Refusal.OVERFLOW),
    "exponent too small": (lambda: delta([3], [1], MIN_EXPONENT - 1), Refusal.NON_FINITE),
    "exponent too large": (lambda: delta([3], [1], MAX_EXPONENT + 1), Refusal.NON_FINITE),
    "more levels than places": (lambda: delta([3], [1, 2]), Refusal.BAD_HEADER),
    "too few tensors": (
        lambda: Delta(np.zeros(2, np.int8), np.array([3]), np.array([1], np.int32)),
        Refusal.BAD_HEADER,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_delta_is_refused_and_changes_nothing(name: str) -> None:
    make, refusal = HOSTILE[name]
    refused(add(fresh_state(), delta([3, int(B)], [5, -6])), make(), refusal)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, MANIFEST.length + 1), st.integers(-(2**31), 2**31 - 1)), max_size=6),
    st.lists(st.integers(-128, 127), min_size=4, max_size=6),
    st.booleans(),
)
def test_any_delta_is_either_applied_exactly_or_refused_without_a_trace(
    entries: list[tuple[int, int]], exponents: list[int], sort: bool
) -> None:
    state = add(fresh_state(), delta([3, int(B)], [5, -6]))
    before, sums = state.copy(), exact(state)
    entries = sorted(dict(entries).items()) if sort else entries
    index = np.array([i for i, _ in entries], np.int64)
    hostile = Delta(np.array(exponents, np.int8), index, np.array([v for _, v in entries], np.int32))
    try:
        change = state.prepare(framed(hostile))
    except FrameError:
        assert equal(before, state)
        return
    state.apply(change)
    for place, level in entries:
        tensor = int(np.searchsorted(MANIFEST.starts, place, "right")) - 1
        while MANIFEST.starts[tensor + 1] == MANIFEST.starts[tensor]:
            tensor += 1
        sums[place] += level << (exponents[tensor] - MIN_EXPONENT)
    assert exact(state) == sums


def test_rule_7_a_state_costs_four_bytes_a_parameter() -> None:
    manifest = manifest_of([("w", (1000, 64), "float32", False)])
    state = fresh_state(manifest)
    assert state.levels.nbytes == 4 * manifest.parameters


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rule_14_values_and_differences_have_equal_bits_on_a_gpu() -> None:
    gpu = torch.device("cuda:0")
    for exponent in range(MIN_EXPONENT, MAX_EXPONENT + 1, 7):
        one = add(fresh_state(), delta([0, 1, 2], [1, MAX_LEVEL, -12345678], exponent))
        other = add(fresh_state(), delta([0, 5], [77, MAX_LEVEL - 2], exponent))
        assert torch.equal(one.tensor(0, CPU), one.tensor(0, gpu).cpu())
        assert torch.equal(one.minus(other, 0, CPU), one.minus(other, 0, gpu).cpu())
