"""Where a node goes on after a restart: from its newest checkpoint and what its log knows beyond it."""

from __future__ import annotations

from torch import Tensor

from .checkpoint import Checkpoint
from .log import PublishedLog
from .state import values


def resume(saved: Checkpoint | None, log: PublishedLog) -> tuple[Tensor, int]:
    """Return tau and the round to go on with.

    A kill between two checkpoints loses nothing that was published: tau = P_now + (tau_then - P_then). Without a
    checkpoint the published state is what is left; without its point in the log the checkpoint is.
    """
    if saved is None:
        return values(log.state), log.last_round + 1
    round_ = max(saved.round, log.last_round + 1)
    if (saved.epoch, saved.version) == (log.epoch, log.version):
        return saved.tau, round_
    then = log.state_at(saved.version) if saved.epoch == log.epoch else None
    return (saved.tau if then is None else saved.tau + (values(log.state) - values(then))), round_
