"""Rules of what is no method of its own: steps after a merge, and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from peermerge.node.merging import MergeMethod
from peermerge.node.merging.adapters import Adapter, cat, linear, merge_dense, svd
from peermerge.node.merging.arithmetic import TaskArithmetic
from peermerge.node.merging.lines import Lines
from peermerge.node.merging.magnitude import Magnitude
from peermerge.node.merging.steps import Followed
from peermerge.node.merging.ties import Ties

from .case import Case

ANY_NUMBER = r"\.(\d+)\."
"""What LiNeS' own code takes for a block's number."""
DENSITIES = tuple(tenths / 10 for tenths in range(1, 11))
"""What may stand behind the names of recorded tensors; the parameters do not say which do."""


def lines(c: Case) -> dict[str, Tensor]:
    """Scale the sum of the task vectors."""
    p = c.parameters
    step = Lines(p["num_blocks"], p["alpha"], p["beta"], block=ANY_NUMBER)
    return c.merged(Followed(TaskArithmetic(), (step,)))


def peft(c: Case) -> dict[str, Tensor]:
    """Merge the adapters of one module in every way that was recorded."""
    module, weights, scaling = c.parameters["module"], c.parameters["weights"], c.parameters["scaling"]
    factors = [[c.statistics[f"{name}.{module}.lora_{letter}.weight"] for letter in "AB"] for name in c.names]
    adapters = [Adapter(a, b, scaling) for a, b in factors]
    rank = len(adapters[0].a)
    methods: Mapping[str, MergeMethod] = {
        "task_arithmetic": TaskArithmetic(),
        **{f"ties_total_{density}": Ties(density, variant="peft") for density in DENSITIES},
        **{f"ties_frequency_{density}": Ties(density, variant="peft-frequency") for density in DENSITIES},
        **{f"magnitude_prune_{density}": Magnitude(density, variant="peft") for density in DENSITIES},
    }
    return {
        "cat": cat(adapters, weights).delta,
        "linear_factors": linear(adapters, weights).delta,
        f"cat_svd_rank{rank}": svd(adapters, weights, rank).delta,
        **{name: merge_dense(method, adapters, weights) for name, method in methods.items()},
    }


RULES: dict[str, Any] = {
    "wang-kee/LiNeS/LiNeS_scaling": lines,
    "peft/0.21.2": peft,
}
