"""Merges of what lies in memory already, on one thread; a program of its own that prints flat figures as JSON.

`sparse`: four decoded deltas of 5 % of a model's entries are elected (TIES) into the dense model, in CPU seconds.
`elementwise`: methods of one tensor at a time, in copies (memcpy) of the vectors that they read and write.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping

import torch
from _merging_models import BASE, DENSE_NOISE, TUNED, Shape, weights

from peermerge.node.merging import MergeMethod, Piece, Site, make_method
from peermerge.node.merging.sparse import Entries, merge_sparse

CONTRIBUTORS = len(TUNED)
SHARE = 0.05
WIDTH = 1 << 10
"""Of the matrix that the vectors are."""
ELEMENTWISE = ("weighted-mean", "task-arithmetic", "magmax")
"""They only pass over memory."""
OTHERS = (
    *("ram", "median", "trimmed-mean", "clip", "consensus", "model-stock", "multislerp", "nuslerp", "localize"),
    *("magnitude", "ties", "breadcrumbs", "sce", "dare-linear", "dare-ties", "della"),
)
"""They select, elect, draw or rank as well."""


def elementwise(size: int, repeats: int) -> dict[str, float]:
    """Return for each method the seconds of a merge over those of copying its deltas and its result."""
    generator = torch.Generator().manual_seed(0)
    deltas = [DENSE_NOISE * torch.randn(size, generator=generator) for _ in range(CONTRIBUTORS)]
    site = Site((1.0,) * CONTRIBUTORS, (Piece("x", (size // WIDTH, WIDTH)),), tuple(range(CONTRIBUTORS)))
    copies = [torch.zeros(size) for _ in range(CONTRIBUTORS + 1)]

    def memcpy() -> None:
        for copy, vector in zip(copies, [*deltas, deltas[0]], strict=True):
            copy.copy_(vector)

    def merging(method: MergeMethod) -> Callable[[], object]:
        return lambda: method.merge(deltas, site)

    methods = {name: merging(make_method(name, {})) for name in (*ELEMENTWISE, *OTHERS)}
    seconds = fastest({name: methods[name] for name in OTHERS}, min(2, repeats))
    seconds |= fastest({"memcpy": memcpy, **{name: methods[name] for name in ELEMENTWISE}}, repeats)
    return {name: seconds[name] / seconds["memcpy"] for name in methods}


def sparse(shape: Shape, repeats: int) -> float:
    """Return the seconds of electing four sparse deltas into a dense model, which is changed in place."""
    generator = torch.Generator().manual_seed(0)
    model = {name: tensor.flatten() for name, tensor in weights(shape, BASE)}
    method = make_method("ties", {"density": 1.0})  # the senders have trimmed
    deltas = {name: [some(len(tensor), generator) for _ in range(CONTRIBUTORS)] for name, tensor in model.items()}

    def merge() -> None:
        for name, tensor in model.items():
            site = Site((1.0,) * CONTRIBUTORS, (Piece(name, (len(tensor),)),))
            merged = merge_sparse(method, deltas[name], site)
            tensor[merged.index] = (tensor[merged.index] + merged.values).to(tensor.dtype)

    return fastest({"sparse": merge}, repeats)["sparse"]


def some(size: int, generator: torch.Generator) -> Entries:
    """Return random entries in a twentieth of all places."""
    index = (torch.rand(size, generator=generator) < SHARE).nonzero().squeeze(1)
    return Entries(index, DENSE_NOISE * torch.randn(len(index), generator=generator))


def fastest(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the CPU seconds of each function's fastest run; all take turns."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.process_time()
            function()
            best[name] = min(best[name], time.process_time() - started)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log2", type=int, required=True, help="of the length of the vectors of `elementwise`")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("dimensions", type=int, nargs=4, help="of the model of `sparse`")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = sparse(Shape(*given.dimensions), min(3, given.repeats))
    print(json.dumps({"sparse": seconds, **elementwise(1 << given.log2, given.repeats)}))


if __name__ == "__main__":
    main()
