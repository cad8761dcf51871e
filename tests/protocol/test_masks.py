import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peermerge.protocol import entropy, masks
from peermerge.protocol.bits import Places, pack_bits, plane_bytes
from peermerge.protocol.entropy import Buffer
from peermerge.protocol.errors import FrameError, Refusal
from peermerge.protocol.limits import MAX_LOG2_SEGMENT
from peermerge.protocol.masks import Coding, Mask

from .frames import densities, generators


def places(rng: np.random.Generator, domain: int, density: float) -> Places:
    return np.flatnonzero(rng.random(domain) < density).astype(np.int32)


def fits(mask: Mask, domain: int) -> bool:
    return masks.fits(mask.coding, mask.shift, mask.count, domain, len(mask.data))


def gaps(count: int, shift: int, plane: bytes, *low: bytes) -> Mask:
    return Mask(Coding.GAPS, shift, count, plane + b"".join(low))


@settings(max_examples=150, deadline=None)
@given(generators, st.integers(1, 6000), densities)
def test_any_mask_comes_back_and_its_record_is_possible(rng: np.random.Generator, domain: int, density: float) -> None:
    positions = places(rng, domain, density)
    mask = masks.encode(positions, domain)
    assert fits(mask, domain)
    assert np.array_equal(masks.decode(mask, domain), positions)


@pytest.mark.parametrize(
    ("domain", "density", "coding"),
    [
        (4096, 0.0, Coding.EMPTY),
        (4096, 1.0, Coding.FULL),
        (4096, 0.5, Coding.BITMAP),
        (65536, 0.9, Coding.BITMAP_ENTROPY),
        (1 << 20, 0.00001, Coding.GAPS),
        (65536, 0.01, Coding.GAPS_ENTROPY),
    ],
)
def test_every_coding_is_chosen_where_it_is_smallest(domain: int, density: float, coding: Coding) -> None:
    positions = places(np.random.default_rng(1), domain, density)
    mask = masks.encode(positions, domain)
    assert mask.coding == coding
    assert np.array_equal(masks.decode(mask, domain), positions)


@settings(max_examples=100, deadline=None)
@given(generators, st.integers(0, MAX_LOG2_SEGMENT), st.integers(1, 5000), st.floats(0.0005, 0.5))
def test_gaps_come_back_with_any_shift(rng: np.random.Generator, shift: int, domain: int, density: float) -> None:
    positions = np.union1d(places(rng, domain, density), [domain - 1])
    assume(2 * len(positions) <= domain)
    mask = masks._encode_gaps(positions.astype(np.int32), shift)
    assert fits(mask, domain)
    assert np.array_equal(masks.decode(mask, domain), positions)


def test_a_long_gap_is_written_with_escapes() -> None:
    positions = np.array([254, 255 + 255, 4095], dtype=np.int64)
    mask = masks._encode_gaps(positions.astype(np.int32), 0)
    assert mask.data == bytes([254, 255, 0]) + bytes([255] * 14 + [14])
    assert np.array_equal(masks.decode(mask, 4096), positions)


@pytest.mark.parametrize(
    ("mask", "domain"),
    [
        (gaps(2, 0, bytes([1, 255])), 600),
        (gaps(2, 0, bytes([1, 2, 3])), 600),
        (gaps(3, 0, bytes([1, 255, 3])), 600),
        (gaps(2, 0, bytes([5, 4])), 10),
        (gaps(1, 1, bytes([5]), bytes([1])), 11),
        (gaps(1, 1, bytes([5]), bytes([2])), 600),
        (gaps(2, 3, bytes([5, 6]), bytes([64])), 600),
        (gaps(1, 24, bytes([254]), bytes([255] * 3)), 1 << 24),
        (Mask(Coding.BITMAP, 0, 3, bytes([3, 0])), 16),
        (Mask(Coding.BITMAP, 0, 1, bytes([3, 0])), 16),
        (Mask(Coding.BITMAP, 0, 2, bytes([1, 16])), 12),
    ],
)
def test_bytes_that_contradict_count_or_domain_are_refused(mask: Mask, domain: int) -> None:
    with pytest.raises(FrameError) as caught:
        masks.decode(mask, domain)
    assert caught.value.refusal is Refusal.BAD_INDEX


@pytest.mark.parametrize(
    ("coding", "shift", "count", "domain", "length"),
    [
        (Coding.EMPTY, 0, 0, 64, 1),
        (Coding.EMPTY, 0, 1, 64, 0),
        (Coding.EMPTY, 1, 0, 64, 0),
        (Coding.FULL, 0, 63, 64, 0),
        (Coding.FULL, 0, 64, 64, 1),
        (Coding.FULL, 0, 0, 0, 0),
        (Coding.BITMAP, 0, 3, 64, 7),
        (Coding.BITMAP, 0, 65, 64, 8),
        (Coding.BITMAP, 0, 0, 64, 8),
        (Coding.BITMAP, 2, 3, 64, 8),
        (Coding.BITMAP_ENTROPY, 0, 3, 64, 8),
        (Coding.BITMAP_ENTROPY, 0, 3, 64, 0),
        (Coding.GAPS, 0, 3, 64, 2),
        (Coding.GAPS, 0, 3, 64, 4),
        (Coding.GAPS, 25, 3, 64, 13),
        (Coding.GAPS_ENTROPY, 1, 3, 64, 1),
        (Coding.GAPS_ENTROPY, 0, 3, 64, 3),
        (6, 0, 3, 64, 8),
        (7, 0, 0, 64, 0),
    ],
)
def test_impossible_records_do_not_fit(coding: int, shift: int, count: int, domain: int, length: int) -> None:
    assert not masks.fits(coding, shift, count, domain, length)


def test_a_compressed_plane_must_state_the_size_that_follows_from_its_domain() -> None:
    stored = entropy.pack(np.zeros(4096, dtype=np.uint8))
    with pytest.raises(FrameError) as caught:
        masks.decode(Mask(Coding.BITMAP_ENTROPY, 0, 1, stored), 4096)
    assert caught.value.refusal is Refusal.OVERSIZE
    with pytest.raises(FrameError) as caught:
        masks.decode(Mask(Coding.BITMAP_ENTROPY, 0, 1, stored), 1 << 20)
    assert caught.value.refusal is Refusal.DECOMPRESS


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(Coding), st.integers(0, 24), st.integers(0, 70), st.integers(1, 64), st.binary(max_size=40))
def test_arbitrary_bytes_give_places_in_order_or_a_refusal(
    coding: Coding, shift: int, count: int, domain: int, data: Buffer
) -> None:
    mask = Mask(coding, shift, count, data)
    if not fits(mask, domain):
        return
    try:
        positions = masks.decode(mask, domain)
    except FrameError:
        return
    assert len(positions) == count
    assert (np.diff(positions, prepend=-1, append=domain) > 0).all()


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_masks_cost_little_more_than_their_entropy(density: float) -> None:
    domain = 1 << 18
    mask = masks.encode(places(np.random.default_rng(2), domain, density), domain)
    share = mask.count / domain
    bits = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert 8 * len(mask.data) <= 1.03 * bits * domain
    assert len(mask.data) <= plane_bytes(domain)


def test_bits_are_little_endian_within_bytes() -> None:
    assert pack_bits(np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], dtype=np.uint8)).tolist() == [1, 2]
