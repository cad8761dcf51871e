"""Rules of other libraries on spheres, and other averages."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peermerge.node.merging.fusion import ArceeFusion
from peermerge.node.merging.karcher import Karcher
from peermerge.node.merging.nearswap import NearSwap
from peermerge.node.merging.passthrough import Passthrough
from peermerge.node.merging.spherical import MultiSlerp, NuSlerp, Slerp
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.node.merging.stock import ModelStock

from .case import Case


def between(c: Case, t: float) -> dict[str, Tensor]:
    """Merge two inputs of which the first is not always the base."""
    start, end = c.models if len(c.models) == 2 else (c.base, c.models[0])
    return merge_state_dicts(Slerp(t), [end], base=start)


def nuslerp(c: Case) -> dict[str, Tensor]:
    """Merge by mergekit's defaults: the arc of whole tensors."""
    flatten, row_wise = c.parameters.get("nuslerp_flatten", True), c.parameters.get("nuslerp_row_wise", False)
    return c.merged(NuSlerp(flatten, row_wise), weights=c.weights(), relative=c.with_base)


def multislerp(c: Case) -> dict[str, Tensor]:
    """Merge by mergekit's defaults."""
    method = MultiSlerp(c.parameters.get("normalize_weights", True), c.parameters.get("eps", 1e-8))
    return c.merged(method, weights=c.weights(), relative=c.with_base)


RULES: dict[str, Any] = {
    "mergekit/slerp": lambda c: between(c, c.parameters["t"]),
    "fusion_bench/slerp_utils.slerp": lambda c: between(c, c.parameters["t"]),
    "fusion_bench/SlerpMergeAlgorithm": lambda c: between(c, c.parameters["t"]),
    "yule-BUAA/MergeLLM/slerp_merging": lambda c: between(c, c.parameters.get("slerp_t", 0.5)),
    "mergekit/nuslerp": nuslerp,
    "mergekit/multislerp": multislerp,
    "mergekit/karcher": lambda c: c.merged(
        Karcher(c.parameters.get("max_iter", 10), c.parameters.get("tol", 1e-5)), relative=False
    ),
    "mergekit/model_stock": lambda c: c.merged(ModelStock(filter_wise=c.parameters.get("filter_wise", False))),
    "yule-BUAA/MergeLLM/stock_merging": lambda c: c.merged(ModelStock()),
    "fusion_bench/ModelStock": lambda c: c.merged(ModelStock("fusion_bench")),
    "mergekit/nearswap": lambda c: c.merged(NearSwap(c.parameters["t"])),
    "mergekit/arcee_fusion": lambda c: c.merged(ArceeFusion()),
    "mergekit/passthrough": lambda c: c.merged(Passthrough(c.one("scale", 1.0)), relative=False),
}
