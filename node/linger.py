"""Stay for a while after the last round: for neighbours without our last version, and members who still count us."""

from __future__ import annotations

from .greeting import greet_many
from .participant import Participant

POLL_S = 0.05
ASK_S = 0.25
"""How often members who are not known to be done are asked."""
ASKED = 16
"""So many of them at a time."""


async def linger(node: Participant) -> None:
    """Serve until every neighbour has the last version and nobody's last round needs us as a member.

    At most as long as configured.
    """
    now = node.clock.now()
    end, ask = now + node.config.node.linger_s, now
    while now < end:
        busy = _not_done(node) if node.last_round and node.config.membership.gossip else []
        if not busy and not _not_served(node):
            return
        if busy and now >= ask:
            ask = now + ASK_S
            await greet_many(node, busy[:ASKED])
        await node.clock.sleep(POLL_S)
        now = node.clock.now()


def _not_served(node: Participant) -> list[str]:
    """Return the neighbours who have not been sent our last version."""
    head = (node.log.epoch, node.log.version)
    return [peer for peer in node.partners(node.membership.view()) if node.peers[peer].served != head]


def _not_done(node: Participant) -> list[str]:
    """Return the addresses of members who may still have to look who is a member in the last round.

    Whose last version we hold has done that, and who says that all rounds are over.
    """
    view, last = node.membership.view(), node.schedule.rounds - 1
    held = {peer for peer in node.partners(view) if (r := node.replicas.get(peer)) is not None and r.round >= last}
    done = {name for name in view.names if node.peers[name].round > last}
    return [m.address for m in view.members if m.name not in held | done | {node.name}]
