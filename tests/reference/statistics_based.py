"""Rules of other libraries that weigh by curvature, optimizer state or inputs: Fisher, OTA, RegMean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peermerge.node.merging.fisher import Fisher, even
from peermerge.node.merging.ota import Ota
from peermerge.node.merging.regmean import RegMean

from .case import Case


def _fisher(case: Case) -> dict[str, Tensor]:
    """Merge by information that FusionBench divides by its norm over the model: here that is a matter of weights."""
    information, floor = case.per_model("fisher"), float(case.parameters.get("minimal_fisher_weight", 1e-6))
    weights = list(case.parameters.get("fisher_scaling_coefficients") or [1 / len(case.names)] * len(case.names))
    if case.parameters.get("normalize_fisher_weight", True):
        weights = even(weights, [_norm(of_model) for of_model in information], floor)
    method = Fisher(normalize=False, floor=floor)
    return case.merged(method, weights=weights, relative=bool(case.base), statistics={"fisher": information})


def _norm(information: dict[str, Tensor]) -> float:
    return float(torch.cat([tensor.reshape(-1).double() for tensor in information.values()]).norm())


def _regmean(case: Case) -> dict[str, Tensor]:
    grams = [{f"{module}.weight": gram for module, gram in of_model.items()} for of_model in case.per_model("gram")]
    method = RegMean(
        ratio=case.parameters.get("reduce_non_diagonal_ratio", 1.0),
        transposed=not case.parameters.get("weight_transpose", True),
    )
    return case.merged(method, relative=bool(case.base), statistics={"gram": grams})


def _ota(case: Case) -> dict[str, Tensor]:
    chosen = case.parameters
    method = Ota(
        power=chosen.get("power", 0.5),
        epsilon=chosen.get("epsilon", 1e-8),
        normalise=chosen.get("normalise", "none"),
        threshold=chosen.get("threshold", chosen.get("precond_threshold")),
        fallback="base" if chosen.get("fallback_to_base", chosen.get("fallback")) in (True, "base") else "mean",
        variant="official",
    )
    return case.merged(method, statistics={"second_moment": case.per_model("fisher")})


RULES: dict[str, Any] = {
    "fusion_bench/merging_with_fisher_weights": _fisher,
    "fusion_bench/merging_with_regmean_weights": _regmean,
    "pmahdavi/ota-merge/OTAMergeTask methods": _ota,
}
