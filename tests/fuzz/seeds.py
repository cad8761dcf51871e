"""Valid frames to start from: of all sizes and kinds, forged ones and our own encoder's."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from peermerge.protocol.codec import Effort, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.limits import max_frame_bytes
from peermerge.protocol.manifest import Manifest, manifest_of

from .draft import Draft, parse
from .forge import forge

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "nothing": (),
    "padded": ((60,),),
    "whole": ((8, 16),),
    "scalars": ((), (), (0, 3), (1,)),
    "layers": ((9, 33), (3,), (), (0, 2), (40, 10), (65,)),
    "two segments": ((90, 50), (10,)),
    "three segments": ((90, 70), (3,), (0, 2), (40, 50)),
    "wide": ((300, 400), (300,), (100, 100)),
    "large": ((1100, 1000),),
    "vast": ((1 << 12, 1 << 12),),
}
MODELS = {name: manifest_of((f"t{i}", s, "float32", len(s) < 2) for i, s in enumerate(SHAPES[name])) for name in SHAPES}
BY_DIGEST = {manifest.digest: manifest for manifest in MODELS.values()}

SMALL = ("nothing", "padded", "whole", "scalars", "layers", "layers", "two segments", "two segments")
DENSITIES = (0.002, 0.02, 0.1, 0.5, 0.97, 1.0)
LARGEST_LEVELS = (1, 1, 2, 5, 20, 400, (1 << 30) - 1)
MOST_SMALL = 160
"""Entries of a small frame."""


@dataclass(frozen=True)
class Seed:
    """A valid frame in pieces, and the model that it is of."""

    manifest: Manifest
    draft: Draft


@dataclass(frozen=True)
class Seeds:
    """Seeds by size; `draw` takes large ones rarely."""

    small: tuple[Seed, ...]
    medium: tuple[Seed, ...]
    large: tuple[Seed, ...]

    def draw(self, rng: Random) -> tuple[Seed, Draft]:
        """Return a seed, and a donor that is not large."""
        size = rng.random()
        pool = self.small if size < 0.95 else self.medium if size < 0.9995 else self.large
        donors = self.small if rng.random() < 0.9 else self.medium
        return rng.choice(pool), rng.choice(donors).draft


def manifest_for(frame: bytes) -> Manifest:
    """Return the model whose digest a frame names, or one of them."""
    return BY_DIGEST.get(frame[56:88], MODELS["layers"])


def seeds(rng: Random) -> Seeds:
    """Return seeds: the same for the same generator."""
    small = [Seed(m := MODELS[rng.choice(SMALL)], parse(small_frame(m, rng))) for _ in range(400)]
    medium = [
        Seed(m := MODELS[name], parse(our_frame(m, rng))) for name in ("three segments", "wide") for _ in range(20)
    ]
    dense = [our_frame(MODELS["large"], rng, density=1.0, largest=top) for top in (1, 200, 100_000)]
    sparse = [our_frame(MODELS["vast"], rng, density=d) for d in (1e-5, 1e-3)]
    large = [Seed(manifest_for(frame), parse(frame)) for frame in (*dense, *sparse)]
    return Seeds(tuple(small), tuple(medium), tuple(large))


def small_frame(manifest: Manifest, rng: Random) -> bytes:
    """Return a forged frame of few entries; forged anew where chance made it larger than any frame may be."""
    places = [place for _, part in manifest.slices() for place in range(part.start, part.stop)]
    density, largest = rng.choice(DENSITIES), rng.choice(LARGEST_LEVELS)
    usual = rng.choice((1, 1, largest))
    taken = [place for place in places if rng.random() < density]
    start = rng.randrange(max(1, len(taken) - MOST_SMALL))
    rare = rng.choice((0.0, 0.02, 0.5))
    levels = (rng.choice((1, -1)) * (rng.randint(1, largest) if rng.random() < rare else usual) for _ in taken)
    entries = list(zip(taken, levels, strict=True))[start : start + MOST_SMALL]
    frame = forge(manifest, entries, rng.choice((12, 12, 20)), rng)
    fits = len(frame) <= max_frame_bytes(manifest.parameters, len(manifest.tensors))
    return frame if fits else small_frame(manifest, rng)


def our_frame(manifest: Manifest, rng: Random, density: float | None = None, largest: int | None = None) -> bytes:
    """Return a frame of our encoder with random choices of its settings."""
    draw = np.random.default_rng(rng.getrandbits(32))
    density = rng.choice(DENSITIES) if density is None else density
    places = np.concatenate([np.arange(part.start, part.stop) for _, part in manifest.slices()])
    index = places[draw.random(len(places)) < density].astype(np.int64)
    magnitudes = draw.integers(1, (rng.choice(LARGEST_LEVELS) if largest is None else largest) + 1, len(index))
    levels = (magnitudes * draw.choice([-1, 1], len(index))).astype(np.int32)
    delta = Delta(draw.integers(-126, 98, len(manifest.tensors)).astype(np.int8), index, levels)
    log2_segment = rng.choice((None, 12, 14)) if manifest.length < 1 << 20 else None
    effort: Effort = "high" if density < 1.0 and rng.random() < 0.5 else "normal"
    return encode(delta, manifest, from_version=3, to_version=4, log2_segment=log2_segment, effort=effort)
