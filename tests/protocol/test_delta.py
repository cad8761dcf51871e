import numpy as np
import pytest
from hypothesis import given, settings

from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.limits import MAX_LEVEL

from .frames import delta_with, densities, generators, level_lists, manifest_with, shapes

MANIFEST = manifest_with((3, 5), (), (0, 4), (70,))


def delta(index: list[int], levels: list[int], exponents: tuple[int, ...] = (0, 0, 0, 0)) -> Delta:
    return Delta(np.array(exponents, np.int8), np.array(index, np.int64), np.array(levels, np.int32))


@settings(max_examples=60, deadline=None)
@given(shapes, generators, densities, level_lists)
def test_entries_inside_tensors_pass(
    tensors: list[tuple[int, ...]], rng: np.random.Generator, density: float, levels: list[int]
) -> None:
    manifest = manifest_with(*tensors)
    entries = delta_with(manifest, rng, density, levels)
    entries.check(manifest)
    bounds = entries.bounds(manifest)
    assert bounds[-1] == len(entries)
    for number, (_, part) in enumerate(manifest.slices()):
        own = entries.index[bounds[number] : bounds[number + 1]]
        assert ((own >= part.start) & (own < part.stop)).all()


@pytest.mark.parametrize(
    ("entries", "refusal"),
    [
        (delta([15], [1]), Refusal.BAD_INDEX),
        (delta([65], [1]), Refusal.BAD_INDEX),
        (delta([-1], [1]), Refusal.BAD_INDEX),
        (delta([256], [1]), Refusal.BAD_INDEX),
        (delta([198], [1]), Refusal.BAD_INDEX),
        (delta([3, 3], [1, 1]), Refusal.BAD_INDEX),
        (delta([4, 3], [1, 1]), Refusal.BAD_INDEX),
        (delta([3], [0]), Refusal.OVERFLOW),
        (delta([3], [MAX_LEVEL + 1]), Refusal.OVERFLOW),
        (delta([3], [-MAX_LEVEL - 1]), Refusal.OVERFLOW),
        (delta([3], [1], (98, 0, 0, 0)), Refusal.NON_FINITE),
        (delta([3], [1], (0, 0, 0, -127)), Refusal.NON_FINITE),
        (delta([3], [1], (0, 0, 0)), Refusal.BAD_HEADER),
        (delta([3, 4], [1]), Refusal.BAD_HEADER),
    ],
)
def test_every_other_entry_is_refused_with_its_reason(entries: Delta, refusal: Refusal) -> None:
    with pytest.raises(FrameError) as caught:
        entries.check(MANIFEST)
    assert caught.value.refusal is refusal


def test_no_entries_pass_and_the_last_place_of_a_tensor_is_inside() -> None:
    delta([], []).check(MANIFEST)
    delta([14, 64, 197], [1, -MAX_LEVEL, MAX_LEVEL], (-126, 97, 0, 0)).check(MANIFEST)
