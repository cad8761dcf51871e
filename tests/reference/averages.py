"""Means and task arithmetic of other libraries."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.average import WeightedMean

from .case import Case


def _weighted_average(case: Case) -> dict[str, Tensor]:
    weights = [float(weight) for weight in case.parameters["weights"]]
    whole = sum(weights) if case.parameters.get("normalize", True) else 1.0
    return case.merged(WeightedMean(normalize=False), weights=[w / whole for w in weights], relative=False)


RULES: dict[str, Any] = {
    "mergekit/linear": lambda c: c.merged(
        WeightedMean(normalize=c.parameters.get("normalize", True)), weights=c.weights(), relative=False
    ),
    "mergekit/task_arithmetic": lambda c: c.merged(
        TaskArithmetic(c.parameters.get("lambda", 1.0), c.parameters.get("normalize", False)), weights=c.weights()
    ),
    "fusion_bench/SimpleAverageAlgorithm": lambda c: c.merged(WeightedMean(), relative=False),
    "fusion_bench/TaskArithmeticAlgorithm": lambda c: c.merged(TaskArithmetic(c.parameters["scaling_factor"])),
    "fusion_bench/WeightedAverageAlgorithm": _weighted_average,
    "fusion_bench/ExPOAlgorithm": lambda c: c.merged(TaskArithmetic(1 + c.parameters["extrapolation_factor"])),
    "yule-BUAA/MergeLLM/average_merging": lambda c: c.merged(WeightedMean(), relative=False),
}
