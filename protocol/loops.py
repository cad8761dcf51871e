"""The loops over single entries: compiled where the package was built with a C compiler, else in numpy.

Both give the same results. `PEERMERGE_KERNEL=off` in the environment chooses numpy.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final

COMPILED: Final = find_spec(f"{__package__}._kernel") is not None and os.environ.get("PEERMERGE_KERNEL") != "off"

if COMPILED:
    from .loops_compiled import (
        above,
        add,
        bitmap,
        carry,
        digits,
        gaps,
        hash_sums,
        lift,
        negate,
        pack_digits,
        pack_gaps,
        pack_places,
        split_signs,
        sums_fit,
    )
else:
    from .loops_numpy import (
        above,
        add,
        bitmap,
        carry,
        digits,
        gaps,
        hash_sums,
        lift,
        negate,
        pack_digits,
        pack_gaps,
        pack_places,
        split_signs,
        sums_fit,
    )

__all__ = [
    "COMPILED",
    "above",
    "add",
    "bitmap",
    "carry",
    "digits",
    "gaps",
    "hash_sums",
    "lift",
    "negate",
    "pack_digits",
    "pack_gaps",
    "pack_places",
    "split_signs",
    "sums_fit",
]
