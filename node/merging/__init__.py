"""Merge methods: pure functions of tensors, one family a file, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...protocol.errors import ConfigError
from ..registry import make
from .arithmetic import TaskArithmetic
from .average import WeightedMean
from .breadcrumbs import Breadcrumbs, BreadcrumbsTies
from .calibrate import SingularValueCalibration
from .clipping import Clip, ClippedGossip
from .consensus import Consensus
from .cosine import CosineFilter
from .dare import DareLinear, DareTies
from .della import Della, DellaLinear
from .doge import Doge
from .emr import Emr
from .fisher import Fisher
from .fusion import ArceeFusion
from .isotropic import IsoC, IsoCts
from .karcher import Karcher
from .krum import MultiKrum, NnmTrimmedMean
from .layers import Layers
from .lines import Lines
from .localize import LocalizeAndStitch
from .magmax import MagMax
from .magnitude import Magnitude
from .median import CoordinateMedian, TrimmedMean
from .method import MergeMethod, Piece, Reference, Scope, Site
from .nearswap import NearSwap
from .opcm import Opcm
from .ota import Ota
from .passthrough import Passthrough
from .pcb import Pcb
from .ram import Ram, RamPlus
from .regmean import RegMean
from .sce import Sce
from .spherical import MultiSlerp, NuSlerp, Slerp
from .steps import Followed, Step
from .stock import ModelStock
from .ties import Ties
from .tsvm import Tsvm
from .widen import Widen
from .wudi import Wudi

__all__ = ["METHODS", "STEPS", "MergeMethod", "Piece", "Reference", "Scope", "Site", "Step", "make_method"]

METHODS: dict[str, type[MergeMethod]] = {
    # Means
    "weighted-mean": WeightedMean,
    "task-arithmetic": TaskArithmetic,
    # Elections
    "ties": Ties,
    "dare-linear": DareLinear,
    "dare-ties": DareTies,
    "della": Della,
    "della-linear": DellaLinear,
    # Cuts and masks
    "breadcrumbs": Breadcrumbs,
    "breadcrumbs-ties": BreadcrumbsTies,
    "sce": Sce,
    "pcb": Pcb,
    "consensus": Consensus,
    "localize": LocalizeAndStitch,
    "magnitude": Magnitude,
    "magmax": MagMax,
    "emr": Emr,
    "ram": Ram,
    "ram-plus": RamPlus,
    # Spheres and averages
    "slerp": Slerp,
    "nuslerp": NuSlerp,
    "multislerp": MultiSlerp,
    "karcher": Karcher,
    "model-stock": ModelStock,
    "nearswap": NearSwap,
    "arcee-fusion": ArceeFusion,
    "passthrough": Passthrough,
    # Subspaces
    "tsvm": Tsvm,
    "iso-c": IsoC,
    "iso-cts": IsoCts,
    "opcm": Opcm,
    "doge": Doge,
    "wudi": Wudi,
    "widen": Widen,
    # Statistics
    "fisher": Fisher,
    "ota": Ota,
    "regmean": RegMean,
    # Robust rules
    "clip": Clip,
    "clipped-gossip": ClippedGossip,
    "median": CoordinateMedian,
    "trimmed-mean": TrimmedMean,
    "multi-krum": MultiKrum,
    "nnm-trimmed-mean": NnmTrimmedMean,
    "cosine": CosineFilter,
}

STEPS: dict[str, type[Step]] = {
    "lines": Lines,
    "layers": Layers,
    "svc": SingularValueCalibration,
}


def make_method(name: str, parameters: Mapping[str, object], after: Sequence[Mapping[str, object]] = ()) -> MergeMethod:
    """Return the merge method of a configuration, with the steps after it: tables with `step` and its parameters.

    Raises ConfigError that names the nearest known name or parameter.
    """
    method = make("merge method", METHODS, name, parameters)
    steps = tuple(_step(table) for table in after)
    return Followed(method, steps) if steps else method


def _step(table: Mapping[str, object]) -> Step:
    if not isinstance(name := table.get("step"), str):
        raise ConfigError("a step after the merge needs its name: step = ...")
    return make("step", STEPS, name, {key: value for key, value in table.items() if key != "step"})
