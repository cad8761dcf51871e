"""Catch up with the neighbours: a newcomer, a node that returns, and one that stood still or was cut off.

Such a node pulls what its partners have published (the tail of their logs or a snapshot, whichever is smaller) and
goes on in their median round. It never publishes the rounds between: nobody would merge them.
"""

from __future__ import annotations

from functools import partial

import torch

from .guard import median_round
from .membership import View
from .participant import Participant
from .schedule import Plan, plan
from .state import values


async def join(node: Participant) -> None:
    """Before the first round: pull from every partner, take up their mean where that is asked, and their round."""
    view = node.membership.view()
    node.progress.phase = "catching up"
    new = not node.log.version and not node.round
    pulled = await _pull(node, view)
    if pulled and new and node.config.node.start == "neighbours":
        await node.clock.work(partial(_start_at_mean, node, pulled))
    _jump(node, view, node.round, pulled, "new" if new else "returned")


async def keep_up(node: Participant, planned: Plan, view: View) -> Plan:
    """Before a round is published: return its plan, or the neighbours' if they are too far ahead."""
    if ahead(node, view, planned.round) == planned.round:
        return planned
    _jump(node, view, planned.round, await _pull(node, view), "behind")
    return plan(node.schedule, node.round)


def move_on(node: Participant, planned: Plan, view: View) -> None:
    """After a round: go to the next, or to the neighbours' if they are too far ahead."""
    node.round = planned.round + 1
    if ahead(node, view, planned.round) > node.round:
        _jump(node, view, planned.round, [], "behind")


def ahead(node: Participant, view: View, round_: int) -> int:
    """Return the others' median round if it is further ahead than the allowed staleness, else `round_`.

    What neighbours have published and what members say of themselves both count, those far away too: among neighbours
    alone a group that fell behind together would keep each other there. A schedule's last round is the last. Where
    nodes merge but once, each trains for all of its rounds, however late.
    """
    if node.schedule.merge != "every":
        return round_
    partners = node.partners(view)
    heard = {name: node.peers[name].round for name in view.names if name in node.peers and name != node.name}
    rounds = heard | {peer: max(_published(node, peer), node.peers[peer].round) for peer in partners}
    middle = median_round(rounds.values())
    middle = min(middle, node.schedule.rounds - 1) if node.schedule.rounds else middle
    return middle if middle - round_ > node.config.round.staleness else round_


def _published(node: Participant, peer: str) -> int:
    replica = node.replicas.get(peer)
    return replica.round if replica is not None else -1


def _jump(node: Participant, view: View, round_: int, pulled: list[str], reason: str) -> None:
    node.round = max(node.round, ahead(node, view, round_))
    if pulled or node.round != round_:
        node.events.emit("catch_up", round=node.round, from_round=round_, pulled=pulled, reason=reason)


async def _pull(node: Participant, view: View) -> list[str]:
    """Pull once from every partner that was heard of, waiting for nobody's round; return whose state is held now."""
    heard = [peer for peer in node.partners(view) if node.peers[peer].round >= 0]
    await node.gather.refresh({peer: view.address(peer) or "" for peer in heard})
    return [peer for peer in heard if node.replicas.get(peer) is not None]


def _start_at_mean(node: Participant, pulled: list[str]) -> None:
    """Take up the mean of the partners' published states; all of it is still to be published."""
    states = [replica.state for peer in pulled if (replica := node.replicas.get(peer)) is not None]
    total = torch.zeros(node.manifest.length, dtype=torch.float64)
    for state in states:
        total += values(state)
    node.params.tau.copy_((total / len(states)).float())
    node.params.write()
