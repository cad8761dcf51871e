"""What it costs to find the largest entries of a vector, in copies (memcpy) of that vector.

Independent values of 2^24, normal and Student's t with 3 degrees of freedom, one thread. *select* finds the exact
threshold of the k largest, *approximate* one from a sample (and by how much its count is off), *index* lists what lies
above it, *compress* is all of a node's choosing and rounding at that density. Functions are timed in turn, repeat
after repeat, and the fastest run of each counts. Limits: select at most 4.5 copies, torch.topk at least 10 x as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from _common import ERR, arguments, show, write
from _deltas import INDEPENDENT

from peermerge.node.config import PublishConfig
from peermerge.node.selection import approximate_cut, cut
from peermerge.node.sparsify import compress
from peermerge.node.vectors import Floats, HostVector
from peermerge.protocol.limits import MIN_EXPONENT
from peermerge.protocol.manifest import manifest_of

SIZE = 1 << 24
DENSITIES = [0.001, 0.01, 0.05, 0.1, 0.2]
SHORT = 5
"""What takes little time is repeated so much more often: a busy machine leaves few quiet moments."""
LIMITS = {"select_over_memcpy": 4.5, "topk_over_select": 10.0}


def fastest(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the seconds of each function's fastest run; all take turns, so that a busy moment hits all of them."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def measure(x: Floats, density: float, repeats: int) -> dict[str, float]:
    """Return seconds over those of a copy, and the approximate count over the exact one less 1."""
    vector, runs, k = HostVector(x), [slice(0, len(x))], round(density * len(x))
    manifest = manifest_of([("x", (len(x) // 4096, 4096), "float32", False)])
    floors, publish, rng = np.full(1, MIN_EXPONENT, np.int8), PublishConfig(density=density), np.random.default_rng(0)
    copy, magnitudes = np.empty_like(x), np.abs(x)
    tensor, exact = torch.from_numpy(magnitudes), cut(vector, runs, k)
    assert len(vector.indexes(runs, exact)) == k  # noqa: S101 (what is timed is right)
    seconds = fastest(
        {
            "memcpy": lambda: np.copyto(copy, x),
            "select": lambda: cut(vector, runs, k),
            "approximate": lambda: approximate_cut(vector, runs, k),
            "index": lambda: vector.indexes(runs, exact),
            "compress": lambda: compress(x, manifest, floors, publish, rng),
        },
        SHORT * repeats,
    ) | fastest(
        {
            "partition": lambda: np.partition(magnitudes, len(x) - k),
            "topk": lambda: torch.topk(tensor, k, sorted=False),
        },
        repeats,
    )
    about = len(vector.indexes(runs, approximate_cut(vector, runs, k)))
    return {name: taken / seconds["memcpy"] for name, taken in seconds.items()} | {"off": about / k - 1}


def main() -> None:
    """Measure every cell, print, write."""
    given = arguments(__doc__ or "").parse_args()
    densities, repeats = ([0.01, 0.1], 2) if given.quick else (DENSITIES, 5)
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    cells: list[dict[str, float]] = []
    for name, drawn in INDEPENDENT.items():
        x = drawn(SIZE, np.random.default_rng(0))
        for density in densities:
            ERR.print(f"{name}, {density:.1%}")
            cell = measure(x, density, repeats)
            cells.append(cell)
            ratios = [cell[column] for column in ("select", "index", "compress", "approximate")]
            others = [cell["partition"], cell["topk"], cell["topk"] / cell["select"]]
            rows.append([name, f"{density:.1%}", *ratios, f"{cell['off']:+.1%}", *others])
    columns = ["values", "density", "select", "index", "compress", "approximate", "count off", "np.partition"]
    show(f"copies of the vector, load {os.getloadavg()[0]:.1f}", [*columns, "torch.topk", "topk/select"], rows)
    figures: dict[str, float | int | str] = {
        "select_over_memcpy": max(cell["select"] for cell in cells),
        "topk_over_select": min(cell["topk"] / cell["select"] for cell in cells),
        "partition_over_select": min(cell["partition"] / cell["select"] for cell in cells),
        "index_over_memcpy": max(cell["index"] for cell in cells),
        "compress_over_memcpy": max(cell["compress"] for cell in cells),
        "approximate_over_memcpy": max(cell["approximate"] for cell in cells),
        "approximate_off": max(abs(cell["off"]) for cell in cells),
        "load": os.getloadavg()[0],
    }
    show("worst of all", ["figure", "value", "limit"], [[k, v, LIMITS.get(k, "")] for k, v in figures.items()])
    write(given.json, figures)


if __name__ == "__main__":
    main()
