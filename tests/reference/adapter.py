"""Run a recorded case of a reference library by our methods: which of theirs is which of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

if not __package__:  # loaded by its path alone: its neighbours are found from the root of the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    __package__ = "tests.reference"

from . import averages, cuts, elections, outside, robust, spheres, statistics_based, subspaces
from .case import Case

Rule = Callable[[Case], dict[str, Tensor] | None]

RULES: dict[str, Rule] = {
    **averages.RULES,
    **elections.RULES,
    **cuts.RULES,
    **spheres.RULES,
    **subspaces.RULES,
    **statistics_based.RULES,
    **robust.RULES,
    **outside.RULES,
}
"""By "library/method", the method up to its first colon or blank where that is enough to tell it."""


def merge_case(
    case: Mapping[str, Any],
    base: Mapping[str, Tensor] | None,
    models: Mapping[str, Mapping[str, Tensor]] | Sequence[Mapping[str, Tensor]],
    statistics: Mapping[str, Tensor] | None,
) -> dict[str, Tensor] | None:
    """Return what our method makes of a case, or None where we do not offer its rule.

    models: the inputs by name, or in the order of the case's inputs (with or without the base among them).
    statistics: tensors called `fisher.<i>.<name>` and `gram.<i>.<module>`, contributor by contributor.
    """
    opened = Case.of(case, base, models, statistics)
    rule = next((RULES[key] for key in opened.keys if key in RULES), None)
    return rule(opened) if rule else None
