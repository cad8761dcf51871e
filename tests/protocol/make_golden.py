"""Write the golden frames anew: python -m tests.protocol.make_golden

Only after the format, or what our encoder chooses, was changed on purpose: until then these bytes hold both in place.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peermerge.protocol.codec import Effort, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.limits import MAX_EXPONENT, MAX_LEVEL, MIN_EXPONENT
from peermerge.protocol.manifest import Manifest, manifest_of

from .plain_decoder import plain_decode
from .planes import planes_of

FOLDER = Path(__file__).parent / "golden"
INDEX = FOLDER / "frames.json"

Draw = Callable[[np.random.Generator, int], Sequence[int] | np.ndarray[Any, Any]]
"""Draws so many magnitudes."""


@dataclass(frozen=True)
class Case:
    """A golden frame: the shapes of its model, the density and the magnitudes of its entries, how it is encoded."""

    shapes: tuple[tuple[int, ...], ...]
    density: float
    levels: Draw = lambda rng, count: np.ones(count)
    log2_segment: int | None = 12
    effort: Effort = "normal"
    versions: tuple[int, int] = (3, 4)


def uniform(largest: int) -> Draw:
    """Levels from 1 to the largest, all as frequent."""
    return lambda rng, count: rng.integers(1, largest + 1, count)


def mostly(level: int, largest: int = 60) -> Draw:
    """Seven of ten entries at one level, the others up to the largest."""
    return lambda rng, count: np.where(rng.random(count) < 0.7, level, rng.integers(level, largest + 1, count))


def shares(*chances: float) -> Draw:
    """Levels from 1 on with these chances."""
    return lambda rng, count: rng.choice(np.arange(1, len(chances) + 1), count, p=chances)


def heavy(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Levels of all sizes that there are: about as many below 2^15 as above."""
    return np.minimum(2.0 ** rng.uniform(0, 30, count), MAX_LEVEL)


ODD = ((50, 41), (3,), (), (0, 2), (65,), (9, 7))
"""Tensors of all kinds: none fills its place in the index space."""

CASES: dict[str, Case] = {
    "no tensors": Case((), 0.0),
    "no entries": Case(ODD, 0.0),
    "one entry": Case(((200, 100),), 0.00005),
    "full": Case(((64, 64), (33, 7)), 1.0),
    "bitmap": Case(((100, 100),), 0.5),
    "bitmap, packed": Case(((200, 100),), 0.15, mostly(1), 15),
    "gaps": Case(((200, 100),), 0.005),
    "gaps, packed": Case(((400, 500),), 0.01, mostly(1), 18),
    "gaps, packed, no low bits": Case(((60, 60),), 0.25, effort="high"),
    **{f"{planes} unary planes": Case(((60, 60),), 0.6, mostly(planes)) for planes in range(1, 6)},
    "unary bitmaps, packed": Case(((120, 200),), 0.5, shares(0.72, 0.2, 0.08), 15),
    "unary gaps": Case(((60, 60),), 0.9, shares(0.99, 0.01)),
    "unary gaps, packed": Case(((120, 200),), 0.9, shares(0.97, 0.03), 15),
    "digits of 4 bits": Case(((60, 60),), 0.6, uniform(14)),
    "digits of 8 bits": Case(((60, 60),), 0.6, uniform(300)),
    "few exceptions": Case(((60, 60),), 0.9, shares(*[0.999 / 14] * 14, *[0.0] * 1000, 0.001)),
    "heavy tails": Case(((60, 60),), 0.5, heavy),
    "many tensors": Case(ODD, 0.7, uniform(20), versions=(0, 2**63 - 1)),
    "many segments": Case(((300, 200), (300,)), 0.1, mostly(1, 5), versions=(2**40, 2**40)),
    "long segments": Case(((2048, 4096),), 0.00002, mostly(2), None),
    "high effort": Case(((90, 90),), 0.3, mostly(1, 9), effort="high"),
}


def delta_of(case: Case, manifest: Manifest, rng: np.random.Generator) -> Delta:
    """Draw a case's delta; the first and the last exponent are the smallest and the largest there may be."""
    places = np.concatenate([[], *(np.arange(part.start, part.stop) for _, part in manifest.slices())])
    index = places[rng.random(len(places)) < case.density].astype(np.int64)
    levels = np.asarray(case.levels(rng, len(index))).astype(np.int32) * rng.choice([-1, 1], len(index))
    exponents = rng.integers(MIN_EXPONENT, MAX_EXPONENT + 1, len(manifest.tensors)).astype(np.int8)
    exponents[:1], exponents[1:][-1:] = MIN_EXPONENT, MAX_EXPONENT
    return Delta(exponents, index, levels.astype(np.int32))


def content(exponents: Sequence[int], entries: Sequence[tuple[int, int]]) -> str:
    """Return the SHA-256 of exponents (int8) and of place (uint64) and level (int32) of each entry."""
    packed = b"".join(struct.pack("<Qi", *entry) for entry in entries)
    return hashlib.sha256(struct.pack(f"{len(exponents)}b", *exponents) + packed).hexdigest()


def main() -> None:
    """Write all frames, and what they say by the plain decoder."""
    FOLDER.mkdir(exist_ok=True)
    index: dict[str, dict[str, object]] = {}
    for number, (name, case) in enumerate(CASES.items()):
        tensors = [(f"t{i}", shape, "float32", len(shape) < 2) for i, shape in enumerate(case.shapes)]
        manifest = manifest_of(tensors)
        settings: dict[str, Any] = {
            "from_version": case.versions[0],
            "to_version": case.versions[1],
            "log2_segment": case.log2_segment,
            "effort": case.effort,
        }
        frame = encode(delta_of(case, manifest, np.random.default_rng(number)), manifest, **settings)
        _, exponents, entries = plain_decode(frame, manifest)
        file = name.replace(",", "").replace(" ", "-") + ".frame"
        (FOLDER / file).write_bytes(frame)
        index[name] = {
            "file": file,
            "tensors": tensors,
            "settings": settings,
            "entries": len(entries),
            "content": content(exponents, entries),
            "planes": [plane.line for plane in planes_of(frame, manifest)],
        }
    INDEX.write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
