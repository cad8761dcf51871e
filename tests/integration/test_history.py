"""A node whose history was set back: peers hold a future of its log that it no longer knows."""

from __future__ import annotations

import pytest

from peermerge.node.greeting import greet
from peermerge.node.participant import Participant
from peermerge.node.round import run_round
from peermerge.node.simulation.nodes import node_config
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.clock import run_virtual

from .mesh import STEP_S, Mesh, gossip, opened, participant

QUICK = {"schedule__rounds": 200, "log__checkpoint_every": 1, "round__floor_s": 0.1, "round__ceiling_s": 0.5}


def copy_of(storage: object) -> MemoryStorage:
    """Return a backup of a node's storage."""
    assert isinstance(storage, MemoryStorage)
    twin = MemoryStorage()
    for folder in ("log", "checkpoints"):
        for name in storage.names(folder):
            twin.write(name, storage.read(name) or b"")
    return twin


async def set_back(mesh: Mesh, lost: int, alone: int) -> Participant:
    """Let the second node lose its last rounds, come back from a backup, and run some rounds unseen."""
    stable, other = mesh.nodes
    backup = copy_of(other.storage)
    await mesh.round(lost)
    await other.close()
    mesh.network.kill(other.name)
    mesh.network.revive(other.name)
    restored = participant(
        node_config(gossip(simulation__nodes=2, **QUICK), 1), mesh.network, storage=backup, incarnation=2
    )
    assert restored.recover() == []
    await restored.open()
    restored.membership.learn([stable.membership.me], first_hand=True)
    mesh.network.cut([stable.name], [other.name])
    for _ in range(alone):
        await run_round(restored, STEP_S)
    mesh.network.heal()
    mesh.nodes[1] = restored
    return restored


@pytest.mark.parametrize("greeted", [True, False], ids=["greeted", "not greeted"])
@pytest.mark.parametrize("alone", [0, 2, 8], ids="{} rounds alone".format)
def test_a_node_that_was_set_back_opens_a_new_epoch_and_is_followed(alone: int, greeted: bool) -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=2, **QUICK)) as mesh:
            await mesh.round(3)
            restored = await set_back(mesh, lost=5, alone=alone)
            if greeted:
                await greet(restored, mesh.nodes[0].name)
            before = mesh.spread()
            await mesh.round(8)
            assert restored.log.epoch == 2
            held = mesh.nodes[0].replicas.get(restored.name)
            assert held is not None
            assert held.point == restored.log.point
            assert held.state.digest == restored.log.state.digest
            assert mesh.spread() < before
            await restored.close()

    run_virtual(program())


def test_a_node_that_only_restarts_keeps_its_epoch() -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=2, **QUICK)) as mesh:
            await mesh.round(3)
            restored = await set_back(mesh, lost=0, alone=0)
            await mesh.round(3)
            assert restored.log.epoch == 1
            assert restored.log.version == 6
            await restored.close()

    run_virtual(program())
