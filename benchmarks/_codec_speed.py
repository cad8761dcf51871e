"""The codec's time for Gaussian values, as one line of JSON; `codec.py` runs it with and without the compiled kernel.

One thread is measured in CPU time, as a ratio to a copy of the same dense float32 tensor; two threads in wall time, as
a ratio to one, beside what the machine has to give: two SHA-256 at a time. What is compared is taken by turns, and the
median of the rounds counts: others use the machine too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
from _deltas import Floats, independent, quantise, top

from peermerge.protocol import loops
from peermerge.protocol.codec import Frame, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.manifest import Manifest

DENSITIES = (0.01, 0.1, 0.2)
THREADED = 0.1
"""The density at which threads are compared."""

Action = Callable[[], object]
Clock = Callable[[], float]


def ratios(pairs: Mapping[str, tuple[Action, Action]], rounds: int, clock: Clock) -> dict[str, float]:
    """Return how many times as long the first of each pair takes as the second: the median, after a warming round."""
    taken: dict[str, list[float]] = {name: [] for name in pairs}
    for _ in range(rounds + 1):
        for name, (action, unit) in pairs.items():
            taken[name].append(seconds(action, clock) / seconds(unit, clock))
    return {name: median(found[1:]) for name, found in taken.items()}


def seconds(action: Action, clock: Clock) -> float:
    """Return what one call takes."""
    began = clock()
    action()
    return clock() - began


def code(delta: Delta, manifest: Manifest, threads: int) -> None:
    """Encode a delta whose entries were chosen before."""
    encode(delta, manifest, from_version=0, to_version=1, threads=threads)


def add(frame: bytes, manifest: Manifest, state: npt.NDArray[np.int32], threads: int) -> None:
    """Decode a frame and add it to a state."""
    Frame.open(frame, manifest).add_to(state, threads)


def digest(pieces: Iterable[Floats], threads: int) -> None:
    """Hash arrays on so many threads: work that shares nothing, not even the interpreter's lock."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hashlib.sha256, pieces))


def measure(count: int, rounds: int) -> dict[str, float]:
    """Return the flat figures."""
    source = independent("gauss", count)
    manifest, state, copy = source.manifest, np.zeros(count, np.int32), np.empty(count, np.float32)
    memcpy = partial(np.copyto, copy, source.values)
    alone: dict[str, tuple[Action, Action]] = {}
    pieces = np.array_split(source.values, 2)
    together = {"two_threads_possible": (partial(digest, pieces, 1), partial(digest, pieces, 2))}
    for density in DENSITIES:
        delta = quantise(source, top(source, density)).delta
        frame = encode(delta, manifest, from_version=0, to_version=1)
        encoding, adding = partial(code, delta, manifest), partial(add, frame, manifest, state)
        alone[f"encode_over_memcpy_{100 * density:g}pct"] = partial(encoding, 1), memcpy
        alone[f"decode_add_over_memcpy_{100 * density:g}pct"] = partial(adding, 1), memcpy
        if density == THREADED:
            together["two_threads_encode"] = partial(encoding, 1), partial(encoding, 2)
            together["two_threads_decode"] = partial(adding, 1), partial(adding, 2)
    one, two = ratios(alone, rounds, time.process_time), ratios(together, rounds, time.perf_counter)
    return {"compiled": int(loops.COMPILED), **one, **two}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log2", type=int, default=24, help="of the number of values")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    print(json.dumps(measure(1 << given.log2, given.rounds)))


if __name__ == "__main__":
    main()
