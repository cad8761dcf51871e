"""Means and task arithmetic of other libraries."""

from __future__ import annotations

from typing import Any

from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.average import WeightedMean

RULES: dict[str, Any] = {
    "mergekit/linear": lambda c: c.merged(
        WeightedMean(normalize=c.parameters.get("normalize", True)), weights=c.weights(), relative=False
    ),
    "mergekit/task_arithmetic": lambda c: c.merged(
        TaskArithmetic(c.parameters.get("lambda", 1.0), c.parameters.get("normalize", False)), weights=c.weights()
    ),
    "fusion_bench/SimpleAverageAlgorithm": lambda c: c.merged(WeightedMean(), relative=False),
    "fusion_bench/TaskArithmeticAlgorithm": lambda c: c.merged(TaskArithmetic(c.parameters["scaling_factor"])),
    "yule-BUAA/MergeLLM/average_merging": lambda c: c.merged(WeightedMean(), relative=False),
}
