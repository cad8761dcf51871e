"""Where a node goes on after a restart: from its newest checkpoint and what its log knows beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .log import PublishedLog
from .state import values


def resume(saved: Checkpoint | None, log: PublishedLog) -> tuple[Tensor, int]:
    """Return tau and the round to go on with.

    A kill between two checkpoints loses nothing that was published: tau = P_now + (tau_then - P_then). Where the log
    no longer holds P_then, the later of the two is left: the published state without what was still to be published,
    or the checkpoint.
    """
    if saved is None:
        return values(log.state), log.last_round + 1
    if (saved.epoch, saved.version) == (log.epoch, log.version):
        return saved.tau, max(saved.round, log.last_round + 1)
    then = log.state_at(saved.version) if saved.epoch == log.epoch else None
    if then is not None:
        return saved.tau + (values(log.state) - values(then)), max(saved.round, log.last_round + 1)
    return (saved.tau, saved.round) if saved.round > log.last_round else (values(log.state), log.last_round + 1)


def generators(own: np.random.Generator, device: torch.device) -> dict[str, Any]:
    """Return the states of the random generators of this process: our own and torch's, which a task may draw from."""
    states: dict[str, Any] = {"own": own.bit_generator.state, "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, Any], own: np.random.Generator, device: torch.device) -> None:
    """Let the generators go on where `generators` was called; those of another device stay as they are."""
    if "own" in states:
        own.bit_generator.state = states["own"]
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
