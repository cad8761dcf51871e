"""Robust rules and alignment of other libraries."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peermerge.node.alignment import Matching, apply_permutations, chain, match_units, match_weights, zip_units
from peermerge.node.merging.krum import MultiKrum
from peermerge.node.merging.median import CoordinateMedian, TrimmedMean

from .case import Case


def weight_matching(case: Case) -> dict[str, Tensor]:
    """Align b with a by their weights, and average."""
    a, b = case.models or (_part(case, name) for name in case.names)
    groups = chain(a)
    found = match_weights(groups, a, b, sweeps=case.parameters.get("max_iter", 100))
    aligned = apply_permutations(groups, found, b)
    return {
        **{f"perm.{group}": permutation for group, permutation in found.items()},
        **{f"{case.names[1]}_aligned.{name}": tensor for name, tensor in aligned.items()},
        **{f"merged.{name}": (a[name] + aligned[name]) / 2 for name in a},
    }


def permute(case: Case) -> dict[str, Tensor]:
    """Match units by a recorded covariance."""
    return _both(match_units(case.statistics["covariance"], case.parameters.get("models", 2)))


def zipit(case: Case) -> dict[str, Tensor]:
    """Zip units by a recorded covariance."""
    chosen = {key: case.parameters[key] for key in ("r", "a", "b") if key in case.parameters}
    return _both(zip_units(case.statistics["covariance"], case.parameters.get("models", 2), **chosen))


def _part(case: Case, name: str) -> dict[str, Tensor]:
    """Return one of the models that a fixture holds under prefixes."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in case.statistics.items() if key.startswith(prefix)}


def _both(matching: Matching) -> dict[str, Tensor]:
    return {"merge": matching.merge, "unmerge": matching.unmerge}


RULES: dict[str, Any] = {
    "byzfl/Median": lambda c: c.merged(CoordinateMedian(), relative=False),
    "byzfl/TrMean": lambda c: c.merged(TrimmedMean(c.parameters.get("f", 0)), relative=False),
    "byzfl/MultiKrum": lambda c: c.merged(MultiKrum(c.parameters.get("f", 0)), relative=False),
    "nsaadati/DIMAT/find_permutation + apply_permutation (cuda replaced by cpu)": weight_matching,
    "official/weight_matching_mlp": weight_matching,
    "official/weight_matching_independent": weight_matching,
    "gstoica27/ZipIt/match_tensors_permute": permute,
    "gstoica27/ZipIt/match_tensors_zipit": zipit,
}
