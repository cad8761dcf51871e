"""Record what mergekit makes of small tensors; the outputs stand in recorded/ and test_recorded.py holds us to them.

Run it where mergekit 0.1.5 is installed: `python tests/reference/record.py`. It overwrites recorded/. Inputs are exact
in bfloat16 or full of equal magnitudes, zeros and opposite deltas. bfloat16 inputs are merged in float32 and cast once.
Where a cut falls among equal magnitudes mergekit keeps whichever its sort put first: such entries are found by
merging the same entries in other orders, and are marked, not compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RECORDED = Path(__file__).parent / "recorded"
NAMES = ("ft0", "ft1", "ft2", "ft3")
SHAPES = {
    "model.layers.0.q.weight": (8, 10),
    "model.layers.1.q.weight": (8, 8),
    "conv.weight": (2, 3, 2, 2),
    "wide.weight": (1, 19),
    "tall.weight": (17, 1),
    "vector": (17,),
    "one": (1,),
    "scalar": (),
}
SHUFFLES = 256
CUTS = ("ties", "sce", "breadcrumbs", "breadcrumbs_ties")
Models = dict[str, dict[str, Tensor]]


def fixtures() -> dict[str, Models]:
    """Return the inputs: random ones, ones full of ties and zeros, and opposite ones."""
    random = torch.Generator().manual_seed(7)

    def normal(scale: float) -> dict[str, Tensor]:
        return {name: scale * torch.randn(shape, generator=random) for name, shape in SHAPES.items()}

    def coarse() -> dict[str, Tensor]:
        return {name: torch.randint(-4, 5, s, generator=random).float() / 64 for name, s in SHAPES.items()}

    def models(base: Mapping[str, Tensor], deltas: list[dict[str, Tensor]]) -> Models:
        moved = [{name: base[name] + delta[name] for name in base} for delta in deltas]
        return {"base": dict(base), **dict(zip(NAMES, moved, strict=True))}

    grid = {name: (64 * tensor).round() / 64 for name, tensor in normal(1.0).items()}
    first, other, third, last = (coarse() for _ in range(4))
    for i, name in enumerate(SHAPES):
        other[name] = -first[name] if i % 2 else other[name]
        third[name] = torch.zeros(SHAPES[name]) if i % 3 == 0 else third[name]
        last[name] = first[name].clone() if i % 2 == 0 else last[name]
    one = normal(0.02)
    return {
        "random": models(normal(1.0), [normal(0.02) for _ in NAMES]),
        "ties": models(grid, [first, other, third, last]),
        "opposite": models(normal(1.0), [{n: f * t for n, t in one.items()} for f in (1.0, -1.0, 0.5, 2.0)]),
    }


def cases() -> Iterator[tuple[str, dict[str, Any], tuple[str, ...], bool]]:
    """Yield method, parameters, inputs and whether the base takes part."""
    equal, uneven, signed = (
        dict(zip(NAMES, w, strict=True)) for w in ((1.0,) * 4, (0.4, 0.1, 0.3, 0.2), (1, -0.5, 0.7, 0.2))
    )
    for weight in (equal, uneven, signed):
        for normalize in (True, False):
            yield "linear", {"weight": weight, "normalize": normalize}, NAMES, False
    for weight, normalize, scale in ((uneven, False, 1.0), (signed, True, 0.6)):
        yield "task_arithmetic", {"weight": weight, "normalize": normalize, "lambda": scale}, NAMES, True
    for density in (0.05, 0.2, 0.5, 0.9, 1.0):
        yield "ties", {"weight": uneven, "density": each(density)}, NAMES, True
    yield "ties", {"weight": signed, "density": each(0.5), "lambda": 0.7}, NAMES, True
    yield "ties", {"weight": uneven, "density": each(0.2, 0.5, 0.7, 1.0), "normalize": False}, NAMES, True
    for method in ("breadcrumbs", "breadcrumbs_ties"):
        for density, gamma in ((0.9, 0.01), (0.5, 0.1), (0.2, 0.05), (0.8, 0.3), (1.0, 0.0)):
            yield method, {"weight": uneven, "density": each(density), "gamma": each(gamma)}, NAMES, True
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        yield method, {"weight": uneven, "density": each(1.0), "normalize": method == "della"}, NAMES, True
    for share in (1.0, 0.5, 0.1):
        yield "sce", {"select_topk": share}, NAMES, True
    for t in (0.0, 0.3, 0.5, 1.0):
        yield "slerp", {"t": t}, ("ft2",), True
    for t in (1e-4, 5e-3, 0.05):
        yield "nearswap", {"t": t}, ("ft2",), True
    for name in ("ft0", "ft2"):
        yield "arcee_fusion", {}, (name,), True
    for relative in (False, True):
        for flat, rows in ((True, False), (False, True), (False, False)):
            weights = {"ft0": 0.3, "ft1": 0.7}
            options = {"weight": weights, "nuslerp_flatten": flat, "nuslerp_row_wise": rows}
            yield "nuslerp", options, ("ft0", "ft1"), relative
        yield "multislerp", {"weight": uneven}, NAMES, relative
    for stop in ({}, {"max_iter": 3}, {"tol": 1e-3}):
        yield "karcher", dict(stop), NAMES, False
    for filter_wise in (False, True):
        yield "model_stock", {"filter_wise": filter_wise}, NAMES, True
        yield "model_stock", {"filter_wise": filter_wise}, NAMES[:2], True
    for epsilon in (1e-5, 0.02):
        yield "ram", {"epsilon": epsilon}, NAMES, True
        yield "ramplus_tl", {"r": 0.1, "alpha": 0.2, "epsilon": epsilon}, NAMES, True
    yield "passthrough", {"scale": {"ft1": 1.25}}, ("ft1",), False


def each(*values: float) -> dict[str, float]:
    """Return one value per model, or the same for all."""
    return dict(zip(NAMES, values * len(NAMES) if len(values) == 1 else values, strict=True))


def merge(method: str, parameters: Mapping[str, Any], models: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merge by mergekit."""
    from mergekit.merge_methods.api import (  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
        merge_state_dicts,
    )

    base = "base" if "base" in models else None
    return dict(merge_state_dicts(models, method, parameters=parameters, base=base))


def ambiguous(
    method: str, parameters: Mapping[str, Any], models: Models, found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mark the entries that come out otherwise when the entries of each tensor are merged in other orders."""
    marks = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in found.items()}
    for seed in range(SHUFFLES if method in CUTS else 0):
        random = torch.Generator().manual_seed(seed)
        orders = {name: torch.randperm(tensor.numel(), generator=random) for name, tensor in found.items()}
        turned = {
            model: {name: t.reshape(-1)[orders[name]].reshape(t.shape) for name, t in tensors.items()}
            for model, tensors in models.items()
        }
        for name, tensor in merge(method, parameters, turned).items():
            back = torch.empty(tensor.numel())
            back[orders[name]] = tensor.reshape(-1)
            marks[name] |= (back.reshape(tensor.shape) - found[name]).abs() > 1e-7
    if method == "model_stock":  # close to its pole rounding decides
        others = {model: models[model] for model in ("base", *sorted(models.keys() - {"base"}, reverse=True))}
        for name, tensor in merge(method, parameters, others).items():
            marks[name] |= (tensor - found[name]).abs() > 1e-6
    return marks


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the tensors one after the other, in the order of SHAPES."""
    return torch.cat([tensors[name].reshape(-1) for name in SHAPES])


def opened(vector: Tensor) -> dict[str, Tensor]:
    """Return the tensors in a vector that `flat` made."""
    parts = torch.split(vector, [math.prod(shape) for shape in SHAPES.values()])
    return {name: part.view(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def main() -> None:
    """Write inputs, outputs, marks and the index."""
    RECORDED.mkdir(exist_ok=True)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    marks: dict[str, Tensor] = {}
    index = []
    for fixture, exact in fixtures().items():
        for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            models = {model: {n: t.to(kind) for n, t in tensors.items()} for model, tensors in exact.items()}
            for model, tensors in models.items():
                inputs[f"{fixture}.{dtype}/{model}"] = flat(tensors)
            wide = {model: {n: t.float() for n, t in tensors.items()} for model, tensors in models.items()}
            for number, (method, parameters, names, relative) in enumerate(cases()):
                chosen = (("base",) if relative else ()) + names
                used = {model: wide[model] for model in chosen}
                found = merge(method, parameters, used)
                key = f"{number}.{fixture}.{dtype}"
                outputs[key] = flat(found).to(kind)
                if (doubts := flat(ambiguous(method, parameters, used, found))).any():
                    marks[key] = doubts
                entry = {"id": f"mergekit/{method}/{key}", "library": "mergekit", "version": "0.1.5", "method": method}
                index.append(
                    entry | {"parameters": parameters, "inputs": chosen, "fixture": fixture, "dtype": dtype, "key": key}
                )
    save_file(inputs, RECORDED / "inputs.safetensors")
    save_file(outputs, RECORDED / "outputs.safetensors")
    save_file(marks, RECORDED / "ambiguous.safetensors")
    lines = ",\n".join(json.dumps(entry) for entry in index)
    (RECORDED / "index.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
