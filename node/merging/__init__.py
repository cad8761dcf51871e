"""Merge methods: pure functions of tensors, one family a file, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping

from ..registry import make
from .arithmetic import TaskArithmetic
from .average import WeightedMean
from .dare import DareLinear, DareTies
from .method import MergeMethod, Reference, Scope
from .ties import Ties

__all__ = ["METHODS", "MergeMethod", "Reference", "Scope", "make_method"]

METHODS: dict[str, type[MergeMethod]] = {
    "weighted-mean": WeightedMean,
    "task-arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare-linear": DareLinear,
    "dare-ties": DareTies,
}


def make_method(name: str, parameters: Mapping[str, object]) -> MergeMethod:
    """Return the merge method of a configuration; raise ConfigError that names the nearest known name or parameter."""
    return make("merge method", METHODS, name, parameters)
