"""Two decoders, one of them written from README.md alone, agree on every frame: what it holds, or why it is refused."""

from __future__ import annotations

from random import Random
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.protocol.codec import encode
from peermerge.protocol.manifest import Manifest

from ..fuzz.draft import parse
from ..fuzz.mutate import Damage, damage_content, damage_stored, exceed, forge_zstd, mutate
from ..fuzz.paths import ACCEPTED, Outcome, agree, plainly, take
from ..fuzz.seeds import MODELS, SMALL, small_frame
from .frames import delta_with, densities, generators, level_lists, manifest_with, shapes
from .plain_decoder import plain_decode, read_tables

randoms = st.integers(0, 2**32 - 1).map(Random)
forged = st.builds(lambda name, rng: (small_frame(MODELS[name], rng), MODELS[name]), st.sampled_from(SMALL), randoms)


def both(frame: bytes, manifest: Manifest) -> tuple[Outcome, Outcome]:
    """Return what the plain decoder and the real one make of a frame."""
    return plainly(frame, manifest), take(frame, manifest)


@settings(max_examples=60, deadline=None)
@given(shapes, generators, densities, level_lists, st.sampled_from([None, 12, 24]), st.sampled_from(["normal", "high"]))
def test_they_agree_on_what_our_encoder_writes(
    tensors: list[tuple[int, ...]],
    rng: np.random.Generator,
    density: float,
    levels: list[int],
    log2_segment: int | None,
    effort: Literal["normal", "high"],
) -> None:
    manifest = manifest_with(*tensors)
    delta = delta_with(manifest, rng, density, levels)
    frame = encode(delta, manifest, from_version=1, to_version=2, log2_segment=log2_segment, effort=effort)
    _, exponents, entries = plain_decode(frame, manifest)
    assert exponents == delta.exponents.tolist()
    assert entries == list(zip(delta.index.tolist(), delta.levels.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(forged)
def test_they_agree_on_what_any_encoder_may_write(pair: tuple[bytes, Manifest]) -> None:
    plain, real = both(*pair)
    assert plain.name == ACCEPTED
    assert agree(plain, real)


@settings(max_examples=400, deadline=None)
@given(forged, forged, randoms)
def test_they_agree_on_damaged_frames(pair: tuple[bytes, Manifest], donor: tuple[bytes, Manifest], rng: Random) -> None:
    frame = mutate(parse(pair[0]), parse(donor[0]), rng)
    plain, real = both(frame, pair[1])
    assert agree(plain, real)


@settings(max_examples=300, deadline=None)
@given(forged, st.sampled_from([damage_stored, damage_content, forge_zstd, exceed]), randoms)
def test_they_give_one_name_to_one_damage(pair: tuple[bytes, Manifest], damage: Damage, rng: Random) -> None:
    draft = parse(pair[0])
    damage(draft, draft, rng)
    draft.settle()
    plain, real = both(draft.pack(), pair[1])
    assert (plain.name, plain.tables, plain.content) == (real.name, real.tables, real.content)


def test_among_forged_frames_is_everything_that_the_format_has() -> None:
    rng = Random(0)
    models = [MODELS[name] for name in SMALL]
    frames = [(small_frame(model, rng), model) for model in models for _ in range(60)]
    records = [record for frame, model in frames for record in read_tables(frame, model)[2]]
    assert {mask.coding for record in records for mask in record.masks[:1]} == set(range(6))
    assert {mask.coding for record in records for mask in record.masks[1:]} == set(range(6))
    assert {len(record.masks) - 1 for record in records} == set(range(6))
    assert {record.width for record in records if record.exceptions} == {4, 8}
