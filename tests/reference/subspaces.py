"""Subspace methods of other libraries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from peermerge.node.merging import MergeMethod
from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.average import WeightedMean
from peermerge.node.merging.calibrate import SingularValueCalibration
from peermerge.node.merging.doge import Doge
from peermerge.node.merging.isotropic import IsoC, IsoCts
from peermerge.node.merging.opcm import Opcm
from peermerge.node.merging.steps import Followed
from peermerge.node.merging.tsvm import Tsvm
from peermerge.node.merging.widen import Widen
from peermerge.node.merging.wudi import Wudi

from .case import Case


def merged(case: Case, method: MergeMethod, scale: float = 1.0) -> dict[str, Tensor]:
    """Merge; tensors that the library excludes from its rule come to their scaled mean."""
    result = case.merged(method)
    excluded = case.parameters.get("exclude_keys") or ()
    if excluded:
        means = case.merged(TaskArithmetic(scale, normalize=True))
        result |= {name: means[name] for name in excluded if name in means}
    return result


def scaled_first(case: Case, factors: Iterable[float]) -> Case:
    """Return the case with each model's distance from the base multiplied."""
    models = tuple(
        {
            name: case.base[name] + factor * (tensor - case.base[name]) if tensor.is_floating_point() else tensor
            for name, tensor in model.items()
        }
        for model, factor in zip(case.models, factors, strict=True)
    )
    return replace(case, models=models)


def tsvm(case: Case) -> dict[str, Tensor]:
    """One alpha scales the result, several scale the contributors."""
    alpha = case.parameters.get("alpha")
    if isinstance(alpha, Iterable):
        return merged(scaled_first(case, alpha), Tsvm(variant="fusion_bench"))
    scale = 1.0 if alpha is None else float(alpha)
    return merged(case, Tsvm(scale, "fusion_bench"), scale)


def opcm(case: Case) -> dict[str, Tensor] | None:
    """The order is said by the case; at alpha 1 the library projects nothing, which is an accident."""
    order = case.parameters.get("order") or case.names
    alpha = float(case.parameters.get("alpha", 0.5))
    if alpha >= 1 or (case.parameters.get("shuffle_order") and "order" not in case.parameters):
        return None
    models = dict(zip(case.names, case.models, strict=True))
    return replace(case, models=tuple(models[name] for name in order)).merged(Opcm(alpha))


def doge(case: Case) -> dict[str, Tensor]:
    """Densities above 1 are percents."""
    given = case.parameters
    density = float(given.get("K", 30))
    return case.merged(
        Doge(
            scale=float(given.get("lamda", 0.07)),
            density=density / 100 if density > 1 else density,
            subspace=int(given.get("subspace", 6)),
            steps=int(given.get("iters", 400)),
            rate=float(given.get("lr", 1e-4)),
            scope="global",
            variant="fusion_bench",
        )
    )


def calibrated(case: Case) -> dict[str, Tensor]:
    """The merge that is calibrated is said by the method's name: task arithmetic, or else the mean."""
    scale = case.parameters.get("scaling_factor")
    method = WeightedMean() if scale is None else TaskArithmetic(float(scale))
    return case.merged(Followed(method, (SingularValueCalibration(float(case.parameters.get("alpha", 1.0))),)))


def iso_c(case: Case) -> dict[str, Tensor]:
    """The sum's directions."""
    scale = float(case.parameters.get("scaling_factor", 1.0))
    return merged(case, IsoC(scale, "fusion_bench"), scale)


def iso_cts(case: Case) -> dict[str, Tensor]:
    """Common and specific directions."""
    scale = float(case.parameters.get("scaling_factor", 1.0))
    return merged(case, IsoCts(scale, float(case.parameters.get("common_space_fraction", 0.8)), "fusion_bench"), scale)


def wudi(case: Case) -> dict[str, Tensor]:
    """Adam's steps and rate."""
    return merged(
        case, Wudi(steps=int(case.parameters.get("iter_num", 300)), rate=float(case.parameters.get("lr", 1e-5)))
    )


def widen(case: Case) -> dict[str, Tensor]:
    """Llama's embedding is transposed, and nothing else."""
    ratio, calibration = (
        case.parameters.get(key, 1.0) for key in ("above_average_value_ratio", "score_calibration_value")
    )
    return case.merged(Widen(float(ratio), float(calibration), r"^model\.embed_tokens\.weight$"))


RULES: dict[str, Any] = {
    "fusion_bench/TaskSingularVectorMerging": tsvm,
    "fusion_bench/compute_and_sum_svd_mem_reduction": tsvm,
    "fusion_bench/compute_and_sum_svd_mem_reduction_2": tsvm,
    "fusion_bench/compute_and_sum_svd_mem_reduction_lossless": lambda c: merged(c, Tsvm(variant="lossless")),
    # Three quarters of the eigenvalues that it inverts in float32 are 0: what was recorded is rounding noise.
    "fusion_bench/compute_and_sum_svd_mem_reduction_lossless_eigen": lambda c: None,
    "fusion_bench/ISO_C_Merge": iso_c,
    "fusion_bench/IsotropicMergingInCommonSubspace": iso_c,
    "fusion_bench/ISO_CTS_Merge": iso_cts,
    "fusion_bench/IsotropicMergingInCommonAndTaskSubspace": iso_cts,
    "fusion_bench/OPCM": opcm,
    "fusion_bench/SingularValueCalibration": calibrated,
    "fusion_bench/DOGE_TA_Algorithm": doge,
    "fusion_bench/wudi_merging": wudi,
    "fusion_bench/WUDIMerging": wudi,
    "yule-BUAA/MergeLLM/widen_merging": widen,
}
