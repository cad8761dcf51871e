"""A node whose disk refuses everything for long: it merges on, and comes back to where the others are."""

from __future__ import annotations

from typing import NoReturn

import pytest

from peermerge.node.status import StatusService
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import DegradedError

from .mesh import gossip, opened

LONG = 40
"""Rounds after which merging with a state that stands still has carried the weights far away."""


def refuse(*_: object, **__: object) -> NoReturn:
    raise DegradedError("no space left")


@pytest.mark.parametrize("over", [{}, {"merge__method": "median"}, {"round__mode": "async"}])
def test_a_disk_that_stays_full_stops_no_merge_and_carries_nothing_away(
    monkeypatch: pytest.MonkeyPatch, over: dict[str, str]
) -> None:
    async def program() -> None:
        async with opened(gossip(schedule__rounds=0, simulation__nodes=3, **over)) as mesh:
            hurt = mesh.nodes[1]
            await mesh.round(3)
            before, merged, version = mesh.spread(), sum(r.merged for r in hurt.peers.values()), hurt.log.version
            with monkeypatch.context() as patch:
                patch.setattr(hurt.storage, "create", refuse)
                await mesh.round(LONG)
                assert hurt.progress.degraded
                assert hurt.log.version == version
                assert sum(r.merged for r in hurt.peers.values()) >= merged + LONG
                assert mesh.spread() < before / 2
            await mesh.round(30)
            assert not hurt.progress.degraded
            assert hurt.unpublished is None
            assert mesh.spread() < before / 4

    run_virtual(program())


def test_a_node_whose_checkpoints_fail_is_degraded_though_it_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        async with opened(gossip(schedule__rounds=0, simulation__nodes=2, log__checkpoint_every=2)) as mesh:
            hurt = mesh.nodes[1]
            with monkeypatch.context() as patch:
                patch.setattr(hurt, "save", refuse)
                await mesh.round(2)
                assert "DEGRADED: no space left" in StatusService(hurt).reply().warnings
                version = hurt.log.version
                await mesh.round()
                assert hurt.log.version == version + 1
                assert hurt.progress.degraded
            await mesh.round()
            assert not hurt.progress.degraded
            assert not mesh.nodes[0].progress.degraded

    run_virtual(program())
