"""Whatever arrives is understood, or refused by name: by property, so that a counterexample is a small one."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from . import wire
from .draft import parse, sealed
from .inputs import FRAME, check
from .mutate import BODIES, FRAMES, TABLES, BytesDamage, Damage
from .paths import ACCEPTED
from .seeds import MODELS, SMALL, small_frame

randoms = st.integers(0, 2**32 - 1).map(Random)
valid_frames = st.builds(small_frame, st.sampled_from([MODELS[name] for name in SMALL]), randoms)
damages = st.lists(st.sampled_from((*BODIES, *TABLES)), max_size=4)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_frame_is_made_of_random_bytes(data: bytes) -> None:
    assert check(FRAME + data) in {"BAD_MAGIC", "TRUNCATED"}


@settings(deadline=None)
@given(valid_frames)
def test_every_frame_that_obeys_the_format_is_accepted(frame: bytes) -> None:
    assert check(FRAME + frame) == ACCEPTED


@settings(deadline=None)
@given(valid_frames, valid_frames, damages, randoms, st.booleans())
def test_damage_with_the_sums_made_right_is_a_valid_frame_or_refused(
    frame: bytes, donor: bytes, chosen: list[Damage], rng: Random, settled: bool
) -> None:
    draft = parse(frame)
    for damage in chosen:
        damage(draft, parse(donor), rng)
        if settled:
            draft.settle()
    check(FRAME + draft.pack())


@settings(deadline=None)
@given(valid_frames, valid_frames, st.sampled_from(FRAMES), randoms)
def test_damaged_bytes_behind_a_right_checksum_are_a_valid_frame_or_refused(
    frame: bytes, donor: bytes, damage: BytesDamage, rng: Random
) -> None:
    check(FRAME + sealed(damage(frame, parse(donor), rng)))


@settings(deadline=None)
@given(st.data(), valid_frames)
def test_any_bytes_in_the_place_of_some_are_a_valid_frame_or_refused(data: st.DataObject, frame: bytes) -> None:
    start = data.draw(st.integers(4, len(frame)))
    end = data.draw(st.integers(start, min(len(frame), start + 16)))
    check(FRAME + sealed(frame[:start] + data.draw(st.binary(max_size=16)) + frame[end:]))


@settings(deadline=None)
@given(st.sampled_from(wire.EVERY_KIND), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(kind: bytes, data: bytes) -> None:
    check(kind + data)


@settings(deadline=None)
@given(randoms)
def test_a_damaged_message_is_understood_or_refused(rng: Random) -> None:
    wire.read(*wire.message(rng))
