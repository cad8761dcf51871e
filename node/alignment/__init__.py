"""Alignment: units of networks with different histories, brought into one order before they are merged."""

from __future__ import annotations

from .activation import Matching, match_units, zip_units
from .chains import chain
from .permutations import Axis, Groups, apply_permutations
from .weight_matching import match_weights

__all__ = ["Axis", "Groups", "Matching", "apply_permutations", "chain", "match_units", "match_weights", "zip_units"]
