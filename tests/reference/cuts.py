"""Cuts and masks of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peermerge.node.merging import MergeMethod
from peermerge.node.merging.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from peermerge.node.merging.consensus import Consensus, tall_mask
from peermerge.node.merging.emr import apply, rescaler, unify
from peermerge.node.merging.localize import LocalizeAndStitch
from peermerge.node.merging.magmax import MagMax
from peermerge.node.merging.magnitude import Magnitude
from peermerge.node.merging.method import Piece, Site
from peermerge.node.merging.pcb import Pcb
from peermerge.node.merging.ram import Ram, RamPlus
from peermerge.node.merging.sce import Sce

from .case import Case

Named = dict[str, Tensor]


def _mergekit_crumbs(method: type[Breadcrumbs] | type[BreadcrumbsTies]) -> Callable[[Case], Named]:
    def rule(case: Case) -> Named:
        made = method(
            density=tuple(min(float(density), 1.0) for density in case.each("density", 1.0)),
            gamma=tuple(map(float, case.each("gamma", 0.01))),
            scale=case.parameters.get("lambda", 1.0),
            aggregate="mean" if case.parameters.get("normalize", False) else "sum",
            rescale=case.parameters.get("rescale", False),
        )
        return case.merged(made, weights=case.weights())

    return rule


def _official_crumbs(case: Case) -> Named:
    return case.merged(
        Breadcrumbs(
            density=case.parameters["top_k_keep"],
            gamma=case.parameters["top_k_remove"],
            scale=case.parameters.get("alpha", 1.0),
            variant="official",
            remove_first=case.parameters.get("remove_first", True),
        )
    )


def _magnitude(case: Case) -> Named:
    # The mask of several tensors at once is ours, so a rate of all or none is too.
    rate = case.parameters["mask_rate"]
    rescale = case.parameters.get("use_rescale", True)
    scale = case.parameters.get("scaling", 1.0)
    return case.merged(Magnitude(1 - rate, scale, rescale=rescale, variant="merge_lm"))


def _consensus(case: Case) -> Named:
    return case.merged(
        Consensus(
            threshold=case.parameters["tall_mask_lambda"],
            agreeing=case.parameters["prun_thre_k"],
            scale=case.parameters["scaling_coef"],
        )
    )


def _tall_mask(case: Case) -> Named:
    """Compare weights, as FusionBench does, and not deltas: an entry at the threshold turns with the last digit."""
    tuned = case.models[case.names.index(case.parameters["task"])]
    masks: Named = {}
    for name, base in _floating(case.base).items():
        tau = torch.stack([model[name].float() - base for model in case.models]).sum(0)
        mask = tall_mask(tuned[name].float(), base + tau, case.parameters["tall_mask_lambda"], base)
        masks[name] = mask.to(torch.uint8)
    return masks


def _emr(answer: Callable[[Case, list[Tensor], Tensor, Site], Named | Tensor]) -> Callable[[Case], Named]:
    def rule(case: Case) -> Named:
        base = _floating(case.base)
        pieces = tuple(Piece(name, tuple(tensor.shape)) for name, tensor in base.items())
        site = Site((1.0,) * len(case.models), pieces)
        deltas = [
            torch.cat([(model[name].float() - tensor).view(-1) for name, tensor in base.items()])
            for model in case.models
        ]
        found = answer(case, deltas, unify(deltas, site.weights), site)
        if not isinstance(found, Tensor):
            return found
        return {piece.name: part for piece, part in zip(pieces, site.split(found), strict=True)}

    return rule


def _rescalers(case: Case, deltas: list[Tensor], unified: Tensor, site: Site) -> Named:
    return {"rescalers": torch.stack([rescaler(delta, unified, site) for delta in deltas])}


def _applied(case: Case, deltas: list[Tensor], unified: Tensor, site: Site) -> Named:
    change = apply(deltas[case.names.index(case.parameters["task"])], unified, site)
    parts = zip(site.pieces, site.split(change), strict=True)
    moved = {p.name: (case.base[p.name].float() + part).to(case.base[p.name].dtype) for p, part in parts}
    return {**case.base, **moved}


def _floating(model: Any) -> Named:
    return {name: tensor.float() for name, tensor in sorted(model.items()) if tensor.is_floating_point()}


def _merged(make: Callable[[dict[str, Any]], MergeMethod]) -> Callable[[Case], Named]:
    return lambda case: case.merged(make(dict(case.parameters)))


RULES: dict[str, Any] = {
    "mergekit/breadcrumbs": _mergekit_crumbs(Breadcrumbs),
    "mergekit/breadcrumbs_ties": _mergekit_crumbs(BreadcrumbsTies),
    "mergekit/sce": _merged(lambda p: Sce(p.get("select_topk", 1.0), "mergekit")),
    "mergekit/ram": _merged(lambda p: Ram(p.get("epsilon", 1e-5))),
    "mergekit/ramplus_tl": _merged(lambda p: RamPlus(p.get("r", 0.1), p.get("alpha", 0.2), p.get("epsilon", 1e-5))),
    "fusion_bench/MagMaxAlgorithm": _merged(lambda p: MagMax(p.get("scaling_factor", 0.5))),
    "fusion_bench/tall_mask.utils.generate_task_masks": _tall_mask,
    "fusion_bench/consensus rule of nik-dim/tall_masks on those masks": _consensus,
    "fusion_bench/emr_unified": _emr(lambda case, deltas, unified, site: unified),
    "fusion_bench/emr_rescalers": _emr(_rescalers),
    "fusion_bench/emr_merge + EMRTaskModulator formula": _emr(_applied),
    "fanqiwan/FuseAI/get_sce_weight + get_erase_mask": _merged(lambda p: Sce(p["select_topk"])),
    "rezazzr/breadcrumbs/TaskVectorMiddleKeep masks": _official_crumbs,
    "yule-BUAA/MergeLLM/breadcrumbs_merging": _merged(
        lambda p: Breadcrumbs(
            p["param_density"], p["param_value_mask_rate"], p["scaling_coefficient"], variant="merge_llm"
        )
    ),
    "yule-BUAA/MergeLM/mask_input_with_mask_rate(strategy=magnitude)": _magnitude,
    "duguodong7/pcb-merging/PCB_merge": _merged(lambda p: Pcb(p["pcb_ratio"], p["lambda"])),
    "uiuctml/Localize-and-Stitch/Localizer.create_basepatch + Stitcher.get_average_masks": _merged(
        lambda p: LocalizeAndStitch(p["sparsity"], "global", strict=True)
    ),
}
