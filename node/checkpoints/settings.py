"""Values that differ from tensor to tensor: by name, and by depth."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from ..config import Section
from .depth import along

Number = Annotated[float, Field(allow_inf_nan=False)]


class Gradient(Section):
    """A piecewise linear function of depth, given at evenly spaced points; outside numbered blocks the first counts."""

    gradient: Annotated[list[Number], Field(min_length=1)]


class Case(Section):
    """A value for the tensors whose names match a pattern such as `*.mlp.*`; without a pattern for all."""

    match: str = "*"
    value: Gradient | Any


class Cases(Section):
    """The first case that matches counts; where none does, the value is not set."""

    cases: Annotated[list[Case], Field(min_length=1)]


class Each(Section):
    """A value for each model, in their order."""

    each: Annotated[list[Cases | Gradient | Any], Field(min_length=1)]


Setting: TypeAlias = Cases | Gradient | Each | Any
"""A plain value, a gradient, cases, or one of these for each model."""
Weight: TypeAlias = Cases | Gradient | Number


def evaluate(setting: Setting, name: str, depth: float, absent: object = None) -> Any:
    """Return a setting's value for one tensor; `absent` where it has none."""
    if isinstance(setting, Each):
        return [evaluate(one, name, depth, absent) for one in setting.each]
    if isinstance(setting, Cases):
        chosen = next((case for case in setting.cases if fnmatchcase(name, case.match)), None)
        return absent if chosen is None else evaluate(chosen.value, name, depth, absent)
    return along(setting.gradient, depth) if isinstance(setting, Gradient) else setting


def evaluated(settings: Mapping[str, Setting], name: str, depth: float) -> dict[str, Any]:
    """Return the values of those settings that have one for this tensor."""
    found = {key: evaluate(setting, name, depth) for key, setting in settings.items()}
    return {key: value for key, value in found.items() if value is not None}
