"""Rounds of training and merging on a ring, every node on a task of its own, in one process and without compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from _merging_suites import Parameters, Suite, mean, minus, norm
from torch import Tensor

from peermerge.node.merging import MergeMethod, Piece, Reference, Site
from peermerge.node.merging.state_dicts import draw


@dataclass(frozen=True, slots=True)
class Played:
    """How it ended: the mean of the nodes, and what merging did to it in every round."""

    mean: Parameters
    drifts: list[float]
    """How far the mean moved while nodes merged, over its distance from the base before that."""
    length: float
    """Distance of the mean from the base at the end."""


def play(suite: Suite, method: MergeMethod, reference: Reference, rounds: int) -> Played:
    """Play so many rounds from the suite's base."""
    nodes = [suite.base] * len(suite.tasks)
    drifts = []
    for round_ in range(rounds):
        nodes = [suite.train(node, task, round_) for task, node in enumerate(nodes)]
        before = mean(nodes)
        nodes = [merged(suite, nodes, i, method, reference, round_) for i in range(len(nodes))]
        drifts.append(norm(minus(mean(nodes), before)) / norm(minus(before, suite.base)))
    return Played(mean(nodes), drifts, norm(minus(mean(nodes), suite.base)))


def merged(
    suite: Suite, nodes: Sequence[Parameters], own: int, method: MergeMethod, reference: Reference, round_: int
) -> Parameters:
    """Return a node's state after it merged its own and its two neighbours' with equal weights."""
    there = [own, *sorted({(own - 1) % len(nodes), (own + 1) % len(nodes)})]
    names = list(suite.base)
    groups = [names] if method.scope == "global" else [[name] for name in names]
    result: Parameters = {}
    for group in groups:
        states = [_flat(nodes[i], group) for i in there]
        ground = states[0] if reference == "own" else _flat(suite.base, group)
        share = 1 / len(there) if reference == "own" else 1.0
        site = Site(
            weights=(share,) * len(there),
            pieces=tuple(Piece(name, tuple(suite.base[name].shape)) for name in group),
            seeds=tuple(draw(round_, i, group) for i in there),
            base=ground if "base" in method.needs else None,
        )
        deltas = [state - ground for state in states]
        change = method.correct(deltas[1:], site) if reference == "own" else method.merge(deltas, site)
        result |= dict(zip(group, site.split(ground + change), strict=True))
    return result


def _flat(model: Parameters, names: Sequence[str]) -> Tensor:
    return torch.cat([model[name].reshape(-1) for name in names])
