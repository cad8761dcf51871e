"""Committed frames hold the format and our encoder's choices in place. `make_golden` writes them anew, on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from peermerge.protocol.codec import encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.manifest import Manifest, manifest_of

from .frames import decode
from .make_golden import CASES, FOLDER, INDEX, content
from .plain_decoder import plain_decode, read_tables
from .planes import planes_of, tables_of


@dataclass(frozen=True)
class Golden:
    """A committed frame and what it must say."""

    frame: bytes
    manifest: Manifest
    settings: dict[str, Any]
    content: str
    planes: list[str]


def golden(name: str) -> Golden:
    told = json.loads(INDEX.read_text())[name]
    manifest = manifest_of((title, tuple(shape), dtype, full) for title, shape, dtype, full in told["tensors"])
    return Golden((FOLDER / told["file"]).read_bytes(), manifest, told["settings"], told["content"], told["planes"])


@pytest.mark.parametrize("name", CASES)
def test_a_golden_frame_says_what_it_always_said(name: str) -> None:
    known = golden(name)
    delta = decode(known.frame, known.manifest)
    header, exponents, entries = plain_decode(known.frame, known.manifest)
    assert content(exponents, entries) == known.content
    assert (
        content(delta.exponents.tolist(), list(zip(delta.index.tolist(), delta.levels.tolist(), strict=True)))
        == known.content
    )
    assert (header.from_version, header.to_version) == (known.settings["from_version"], known.settings["to_version"])


@pytest.mark.parametrize("name", CASES)
def test_its_delta_encoded_anew_gives_the_same_tables_and_planes(name: str) -> None:
    known = golden(name)
    _, exponents, entries = plain_decode(known.frame, known.manifest)
    index, levels = zip(*entries, strict=True) if entries else ((), ())
    delta = Delta(np.array(exponents, np.int8), np.array(index, np.int64), np.array(levels, np.int32))
    again = encode(delta, known.manifest, **known.settings)
    assert [plane.line for plane in planes_of(again, known.manifest)] == known.planes
    assert tables_of(again, known.manifest) == tables_of(known.frame, known.manifest)


@pytest.mark.parametrize("name", CASES)
def test_its_planes_before_the_entropy_stage_are_known(name: str) -> None:
    known = golden(name)
    assert [plane.line for plane in planes_of(known.frame, known.manifest)] == known.planes


def test_together_they_show_all_that_the_format_has() -> None:
    frames = [golden(name) for name in CASES]
    records = [record for known in frames for record in read_tables(known.frame, known.manifest)[2]]
    masks = [mask for record in records for mask in record.masks]
    assert {mask.coding for mask in masks} == set(range(6))
    assert {mask.coding for record in records for mask in record.masks[1:]} == set(range(6))
    assert len({mask.shift for mask in masks}) >= 5
    assert {len(record.masks) - 1 for record in records} == set(range(6))
    assert {record.width for record in records} == {0, 4, 8}
    assert {record.width for record in records if record.exceptions} == {4, 8}
    planes = [plane for known in frames for plane in planes_of(known.frame, known.manifest)]
    packable = {(kind, packed) for kind in ("mask", "unary", "digits", "excess") for packed in (True, False)}
    assert {(plane.name.split()[0], plane.packed) for plane in planes} == {("signs", False), *packable}
    assert sum(len(known.frame) for known in frames) < 200_000
