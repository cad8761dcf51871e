"""One training node: it trains, publishes sparse deltas of its weights and merges with its neighbours.

    from peermerge.node import Node      # wrap your own training loop

Names are resolved at their first use, so that the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .node import Node
    from .tasks import Shard, Task, TrainReport

__all__ = ["Node", "Shard", "Task", "TrainReport"]

_HOMES = {"Node": ".node", "Shard": ".tasks", "Task": ".tasks", "TrainReport": ".tasks"}


def __getattr__(name: str) -> object:
    """Import a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
