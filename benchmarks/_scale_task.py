"""The task of many nodes: real digits, a network of 2.2 k parameters, and as many shards as the data is enough for."""

from __future__ import annotations

from peermerge.node.tasks.classify import SupervisedTask
from peermerge.node.tasks.digits import digits
from peermerge.node.tasks.task import Shard

SHARDS = 32
"""1,400 digits are dealt to so many; further nodes share a shard."""


def shared_digits(shard: Shard, *, batch: int = 8) -> SupervisedTask:
    """Return the digits task on one of `SHARDS` parts."""
    return digits(Shard(shard.index % SHARDS, SHARDS, shard.seed), width=4, hidden=8, batch=batch)
