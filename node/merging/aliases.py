"""What other libraries call our methods: the table behind `--method mergekit:ties` and mergekit's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Alias:
    """A library's method as one of ours."""

    method: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Ours that are fixed to what the library does, and defaults of the library where they differ."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Their parameters by our names; "1 - density" stands for the complement of ours."""
    values: Mapping[str, Mapping[object, object]] = field(default_factory=dict)
    """By their parameters: their values by ours, where they are called otherwise."""


NORMALIZE: Mapping[object, object] = {True: "mean", False: "sum"}
L1: Mapping[object, object] = {True: "l1", False: "none"}
BY_DENSITY: Mapping[object, object] = {True: "paper", False: "none"}

ALIASES: dict[str, Alias] = {
    # Elections
    "mergekit:ties": Alias(
        "ties", {"density": 1.0}, {"lambda": "scale", "normalize": "aggregate"}, {"normalize": NORMALIZE}
    ),
    "mergekit:dare_linear": Alias(
        "dare-linear",
        {"density": 1.0, "rescale": "l1"},
        {"lambda": "scale", "normalize": "aggregate"},
        {"normalize": NORMALIZE, "rescale": L1},
    ),
    "mergekit:dare_ties": Alias(
        "dare-ties",
        {"density": 1.0, "rescale": "l1", "aggregate": "sum"},
        {"lambda": "scale", "normalize": "aggregate"},
        {"normalize": NORMALIZE, "rescale": L1},
    ),
    "mergekit:della_linear": Alias(
        "della-linear",
        {"density": 1.0, "rescale": "l1"},
        {"lambda": "scale", "normalize": "aggregate"},
        {"normalize": NORMALIZE, "rescale": L1},
    ),
    "mergekit:della": Alias(
        "della",
        {"density": 1.0, "rescale": "l1"},
        {"lambda": "scale", "normalize": "aggregate"},
        {"normalize": NORMALIZE, "rescale": L1},
    ),
    "fusion_bench:ties_merging": Alias(
        "ties",
        {"variant": "official", "scope": "global", "scale": 0.3, "aggregate": "sum"},
        {"scaling_factor": "scale", "merge_func": "aggregate"},
    ),
    "fusion_bench:dare_task_arithmetic": Alias(
        "dare-linear",
        {"scale": 0.3},
        {"scaling_factor": "scale", "sparsity_ratio": "1 - density"},
        {"rescale": BY_DENSITY},
    ),
    "merge_lm:dare": Alias(
        "dare-linear", names={"mask_rate": "1 - density", "use_rescale": "rescale"}, values={"use_rescale": BY_DENSITY}
    ),
    "merge_llm:ties_merging": Alias(
        "ties",
        {"variant": "merge_llm"},
        {"param_value_mask_rate": "1 - density", "scaling_coefficient": "scale"},
    ),
    "peft:ties": Alias(
        "ties",
        {"variant": "peft"},
        {"majority_sign_method": "variant"},
        {"majority_sign_method": {"total": "peft", "frequency": "peft-frequency"}},
    ),
    "peft:dare_linear": Alias("dare-linear"),
    # Cuts and masks
    "mergekit:breadcrumbs": Alias(
        "breadcrumbs", {"density": 1.0}, {"lambda": "scale", "normalize": "aggregate"}, {"normalize": NORMALIZE}
    ),
    "mergekit:breadcrumbs_ties": Alias(
        "breadcrumbs-ties", {"density": 1.0}, {"lambda": "scale", "normalize": "aggregate"}, {"normalize": NORMALIZE}
    ),
    "mergekit:sce": Alias("sce", {"variant": "mergekit", "density": 1.0}, {"select_topk": "density"}),
    "mergekit:ram": Alias("ram"),
    "mergekit:ramplus_tl": Alias("ram-plus"),
    "fusion_bench:magmax": Alias("magmax", names={"scaling_factor": "scale"}),
    "fusion_bench:emr_merging": Alias("emr"),
    "peft:magnitude_prune": Alias("magnitude", {"variant": "peft"}),
    # Spheres and averages
    "mergekit:slerp": Alias("slerp", names={"t": "t"}),
    "mergekit:nuslerp": Alias("nuslerp", names={"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise"}),
    "mergekit:multislerp": Alias("multislerp", names={"normalize_weights": "normalize", "eps": "eps"}),
    "mergekit:karcher": Alias("karcher", names={"max_iter": "max_iter", "tol": "tol"}),
    "mergekit:model_stock": Alias("model-stock", names={"filter_wise": "filter_wise"}),
    "mergekit:nearswap": Alias("nearswap", names={"t": "t"}),
    "mergekit:arcee_fusion": Alias("arcee-fusion"),
    "mergekit:passthrough": Alias("passthrough", names={"scale": "scale"}),
    "fusion_bench:slerp": Alias("slerp", names={"t": "t", "DOT_THRESHOLD": "straight"}),
    "fusion_bench:model_stock": Alias("model-stock", {"variant": "fusion_bench"}),
    "mergekit:linear": Alias("weighted-mean", names={"normalize": "normalize"}),
    "mergekit:task_arithmetic": Alias("task-arithmetic", names={"lambda": "scale", "normalize": "normalize"}),
    "fusion_bench:simple_average": Alias("weighted-mean"),
    "fusion_bench:task_arithmetic": Alias("task-arithmetic", {"scale": 0.3}, {"scaling_factor": "scale"}),
    # Subspaces
    "fusion_bench:task_singular_vector": Alias("tsvm", {"variant": "fusion_bench"}, {"alpha": "scale"}),
    "fusion_bench:isotropic_c": Alias("iso-c", names={"scaling_factor": "scale"}),
    "fusion_bench:isotropic_cts": Alias(
        "iso-cts", names={"scaling_factor": "scale", "common_space_fraction": "common"}
    ),
    "fusion_bench:opcm": Alias("opcm", names={"alpha": "alpha"}),
    "fusion_bench:doge_ta": Alias(
        "doge",
        {"variant": "fusion_bench", "scope": "global"},
        {"lamda": "scale", "K": "density", "subspace": "subspace"},
    ),
    "fusion_bench:wudi": Alias("wudi", names={"iter_num": "steps"}),
    # Statistics
    "fusion_bench:regmean": Alias("regmean", {"ratio": 1.0}, {"reduce_non_diagonal_ratio": "ratio"}),
    "ota_merge:ota": Alias(
        "ota",
        {"variant": "official", "epsilon": 1e-8, "fallback": "mean"},
        {"power": "power", "epsilon": "epsilon", "normalise": "normalise", "precond_threshold": "threshold"},
    ),
    # Robust rules
    "byzfl:Median": Alias("median"),
    "byzfl:TrMean": Alias("trimmed-mean", {"f": 0}, {"f": "f"}),
    "byzfl:MultiKrum": Alias("multi-krum", {"f": 0}, {"f": "f"}),
}
