import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.protocol import levels
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.levels import Levels
from peermerge.protocol.limits import MAX_LEVEL

from .frames import generators, level_lists


def returned(values: npt.ArrayLike) -> bool:
    magnitudes = np.asarray(values, dtype=np.int32)
    return np.array_equal(levels.decode(levels.encode(magnitudes), len(magnitudes)), magnitudes)


@settings(max_examples=150, deadline=None)
@given(generators, level_lists, st.integers(0, 3000))
def test_any_levels_come_back(rng: np.random.Generator, choices: list[int], count: int) -> None:
    assert returned(rng.choice(choices, count))


@settings(max_examples=50, deadline=None)
@given(generators, st.floats(0.01, 0.99), st.integers(1, 3000))
def test_geometric_levels_come_back(rng: np.random.Generator, rate: float, count: int) -> None:
    assert returned(rng.geometric(rate, count))


@pytest.mark.parametrize("level", [1, 2, 5, 6, 7, 15, 16, 17, 21, 255, 256, 257, 261, 262, 65536, 1 << 24, MAX_LEVEL])
@pytest.mark.parametrize("count", [1, 2, 63, 1000])
def test_levels_at_the_edges_of_every_stage_come_back(level: int, count: int) -> None:
    assert returned(np.full(count, level))
    assert returned([1] * count + [level])


def test_ternary_levels_cost_no_bytes() -> None:
    coded = levels.encode(np.ones(1000, dtype=np.int32))
    assert [plane.count for plane in coded.planes] == [0]
    assert coded.width == 0
    assert not coded.rest
    assert not any(coded.excess)


def test_a_majority_is_told_by_unary_planes_up_to_its_level() -> None:
    coded = levels.encode(np.array([3] * 90 + [4] * 6 + [9] * 4, dtype=np.int32))
    assert [plane.count for plane in coded.planes] == [100, 100, 10, 4]
    assert coded.width == 4


def test_small_levels_take_nibbles_and_large_ones_bytes() -> None:
    rng = np.random.default_rng(0)
    assert levels.encode(rng.integers(1, 15, 1000, dtype=np.int32)).width == 4
    assert levels.encode(rng.integers(1, 200, 1000, dtype=np.int32)).width == 8


def test_fine_levels_of_24_bits_cost_three_bytes() -> None:
    values = np.random.default_rng(0).integers(1 << 20, 1 << 24, 100_000, dtype=np.int32)
    coded = levels.encode(values)
    assert len(coded.rest) + sum(map(len, coded.excess)) < 3.05 * len(values)


def damaged(coded: Levels, **fields: object) -> Levels:
    named = {name: getattr(coded, name) for name in Levels.__slots__}
    return Levels(**{**named, **fields})


def test_a_level_of_2_to_the_30_is_refused() -> None:
    coded = levels.encode(np.array([MAX_LEVEL], dtype=np.int32))
    for top in (0x40, 0x80, 0xFF):
        with pytest.raises(FrameError) as caught:
            levels.decode(damaged(coded, excess=(*coded.excess[:3], bytes([top]))), 1)
        assert caught.value.refusal is Refusal.OVERFLOW


def test_exceptions_must_be_as_many_as_the_digits_call_for() -> None:
    coded = levels.encode(np.array([1000, 2000, 30], dtype=np.int32))
    with pytest.raises(FrameError) as caught:
        levels.decode(damaged(coded, exceptions=1), 3)
    assert caught.value.refusal is Refusal.BAD_HEADER


def test_a_half_byte_beyond_the_last_digit_is_refused() -> None:
    coded = levels.encode(np.array([3, 7, 11], dtype=np.int32))
    assert coded.rest == bytes([0x62, 0x0A])
    with pytest.raises(FrameError) as caught:
        levels.decode(damaged(coded, rest=bytes([0x62, 0x1A])), 3)
    assert caught.value.refusal is Refusal.BAD_HEADER
