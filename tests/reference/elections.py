"""TIES, DARE and DELLA of other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod
from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.dare import DareLinear, DareTies, Rescale
from peermerge.node.merging.della import Della, DellaLinear, keep_probabilities
from peermerge.node.merging.magnitude import Magnitude
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.node.merging.ties import Aggregate, Ties

from .case import Case

PEFT_DENSITIES = tuple(tenths / 10 for tenths in range(1, 11))
"""What may stand behind the names of a recorded case's tensors, which do not say what else was recorded."""


def _density(c: Case) -> tuple[float, ...]:
    """Return mergekit's densities: from 1 on everything is kept."""
    return tuple(min(float(density), 1.0) for density in c.each("density", 1.0))


def _aggregate(c: Case, *, normalize: bool) -> Literal["mean", "sum"]:
    return "mean" if c.parameters.get("normalize", normalize) else "sum"


def _mergekit(c: Case, method: MergeMethod) -> dict[str, Tensor]:
    """Run once, or as often as a random case says."""
    runs = c.parameters.get("runs")
    weights = c.weights()
    return c.repeated(method, weights=weights, runs=runs) if runs else c.merged(method, weights=weights)


def _mergekit_ties(c: Case) -> dict[str, Tensor]:
    return _mergekit(
        c,
        Ties(
            density=_density(c),
            scale=c.parameters.get("lambda", 1.0),
            aggregate=_aggregate(c, normalize=True),
            rescale=c.parameters.get("rescale", False),
        ),
    )


def _mergekit_dare(c: Case, method: type[DareLinear] | type[DareTies]) -> dict[str, Tensor]:
    return _mergekit(
        c,
        method(
            density=_density(c),
            scale=c.parameters.get("lambda", 1.0),
            rescale=_rescale(c),
            aggregate=_aggregate(c, normalize=False),
        ),
    )


def _mergekit_della(c: Case, method: type[DellaLinear] | type[Della]) -> dict[str, Tensor]:
    return _mergekit(
        c,
        method(
            density=_density(c),
            scale=c.parameters.get("lambda", 1.0),
            rescale=_rescale(c),
            aggregate=_aggregate(c, normalize=method is Della),
            epsilon=c.one("epsilon", 0.15),
        ),
    )


def _rescale(c: Case) -> Rescale:
    return "l1" if c.parameters.get("rescale", True) else "none"


def _global_ties(c: Case, threshold: float, scale: float, aggregate: Aggregate) -> dict[str, Tensor]:
    """Merge by the official rule, whose threshold is a density, in percent if it is above 1."""
    density = threshold / 100 if threshold > 1 else threshold
    return c.merged(Ties(density, scale=scale, scope="global", aggregate=aggregate, variant="official"))


def _official_ties(c: Case) -> dict[str, Tensor] | None:
    p = c.parameters
    if p.get("resolve_method", "mass") != "mass":
        return None
    return _global_ties(c, p["reset_thresh"], p["lambda"], p["merge_func"].removeprefix("dis-"))


def _fusion_bench_ties(c: Case) -> dict[str, Tensor] | None:
    p = c.parameters
    if p.get("remove_keys"):
        return None
    return _global_ties(c, p["threshold"], p["scaling_factor"], p["merge_func"])


def _merge_llm_ties(c: Case) -> dict[str, Tensor]:
    """Merge by MergeLLM's rule: per tensor, whatever else is said of it."""
    density = 1 - c.parameters["param_value_mask_rate"]
    return c.merged(Ties(density, scale=c.parameters["scaling_coefficient"], variant="merge_llm"))


def _fusion_bench_dare(c: Case, scale: float) -> dict[str, Tensor] | None:
    p = c.parameters
    if p.get("only_on_linear_weights"):
        return None
    rescale: Rescale = "paper" if p.get("rescale", True) else "none"
    method = DareLinear(1 - p["sparsity_ratio"], scale=scale, rescale=rescale)
    return c.repeated(method, runs=p["runs"]) if "runs" in p else c.merged(method)


def _official_dare(c: Case) -> dict[str, Tensor]:
    p = c.parameters
    method = DareLinear(1 - p["mask_rate"], rescale="paper" if p["use_rescale"] else "none")
    return c.repeated(method, weights=c.weights(), runs=p["runs"])


def _official_della(c: Case) -> dict[str, Tensor]:
    method = DellaLinear(c.parameters["density"], epsilon=c.parameters["epsilon"])
    found = c.repeated(method, weights=c.weights(), runs=c.parameters["runs"])
    for name, base in c.base.items():
        if base.ndim > 2:  # the official code does not know convolutions: it leaves the base's
            found[f"mean.{name}"], found[f"std.{name}"] = base.double(), torch.zeros_like(base).double()
    return found


def _della_probabilities(c: Case) -> dict[str, Tensor]:
    """Return every entry's; the official code does not know convolutions."""
    found = {}
    for name, model in zip(c.names, c.models, strict=True):
        for tensor, base in c.base.items():
            if base.is_floating_point():
                delta = (model[tensor] - base).float().reshape(-1)
                kept = keep_probabilities(delta, base.shape, c.parameters["density"], c.parameters["epsilon"])
                for library in ("mergekit", "official") if base.ndim < 3 else ("mergekit",):
                    found[f"{library}.{name}.{tensor}"] = kept.view(base.shape)
    return found


def _peft(c: Case) -> dict[str, Tensor]:
    """Merge one module's adapters: their dense deltas, or their factors."""
    weights, scaling, module = c.parameters["weights"], c.parameters["scaling"], c.parameters["module"]
    a, b = ([c.statistics[f"{name}.{module}.lora_{factor}.weight"] for name in c.names] for factor in "AB")
    deltas = [{"": scaling * up @ down} for up, down in zip(b, a, strict=True)]
    factors = [{"a": down, "b": up} for up, down in zip(b, a, strict=True)]
    roots = [(weight * scaling) ** 0.5 for weight in weights]
    linear = merge_state_dicts(TaskArithmetic(), factors, weights=roots)
    whole = merge_state_dicts(TaskArithmetic(), deltas, weights=weights)[""]
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    rank = len(a[0])
    methods: Mapping[str, MergeMethod] = {
        **{f"ties_total_{density}": Ties(density, variant="peft") for density in PEFT_DENSITIES},
        **{f"ties_frequency_{density}": Ties(density, variant="peft-frequency") for density in PEFT_DENSITIES},
        **{f"magnitude_prune_{density}": Magnitude(density, variant="peft") for density in PEFT_DENSITIES},
    }
    return {
        "cat": whole,
        "task_arithmetic": whole,
        f"cat_svd_rank{rank}": u[:, :rank] * s[:rank] @ v[:rank],
        "linear_factors": linear["b"] @ linear["a"],
        **{name: merge_state_dicts(method, deltas, weights=weights)[""] for name, method in methods.items()},
    }


RULES: dict[str, Any] = {
    "mergekit/ties": _mergekit_ties,
    "mergekit/dare_linear": lambda c: _mergekit_dare(c, DareLinear),
    "mergekit/dare_ties": lambda c: _mergekit_dare(c, DareTies),
    "mergekit/della_linear": lambda c: _mergekit_della(c, DellaLinear),
    "mergekit/della": lambda c: _mergekit_della(c, Della),
    "prateeky2806/ties-merging/topk_values_mask + resolve_sign + disjoint_merge": _official_ties,
    "fusion_bench/TiesMergingAlgorithm": _fusion_bench_ties,
    "fusion_bench/DareTaskArithmetic": lambda c: _fusion_bench_dare(c, c.parameters["scaling_factor"]),
    "fusion_bench/DareSimpleAverage": lambda c: _fusion_bench_dare(c, 1 / len(c.models)),
    "yule-BUAA/MergeLLM/ties_merging": _merge_llm_ties,
    "yule-BUAA/MergeLM/mask_input_with_mask_rate(random, rescale) + weighted sum": _official_dare,
    "declare-lab/della/rank_magnitude + weighted sum": _official_della,
    "mergekit + declare-lab/della@80675156d6742edb81548c8037947d92dc79dc66/della_magprune": _della_probabilities,
    "peft/0.21.2": _peft,
}
