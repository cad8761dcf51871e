"""Nodes that come late, return, stood still or were cut off: they pull what is there and go on where the others are."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch

from peermerge.node.catch_up import join
from peermerge.node.config import NodeConfig, SimulationConfig
from peermerge.node.events import EventList
from peermerge.node.greeting import greet_all
from peermerge.node.participant import Participant
from peermerge.node.round import run_round
from peermerge.node.simulation.nodes import node_config
from peermerge.node.state import values
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.members import MemberState

from .mesh import STEP_S, Mesh, gossip, opened, participant, simulated

QUICK = {"schedule__rounds": 200, "round__floor_s": 0.2, "round__ceiling_s": 1.0, "round__evaluate_every": 0}


def events(node: Participant, kind: str) -> list[dict[str, Any]]:
    assert isinstance(node.events, EventList)
    return [event for event in node.events.events if event["event"] == kind]


async def newcomer(mesh: Mesh, config: SimulationConfig, name: str, **node: object) -> Participant:
    """Let one more node join the mesh as a daemon would: greet the first member, catch up."""
    data = node_config(config, 0, name=name, **node).model_dump()
    data["membership"] |= {"peers": (mesh.names[0],), "wait_s": 5.0}
    late = participant(NodeConfig.model_validate(data), mesh.network)
    late.recover()
    await late.open()
    assert await greet_all(late) == []
    await join(late)
    mesh.nodes.append(late)
    return late


def test_a_newcomer_begins_in_the_others_round_and_is_merged_within_three() -> None:
    async def program() -> None:
        config = simulated(simulation__nodes=4, task__count=5, **QUICK)
        async with opened(config) as mesh:
            await mesh.round(9)
            late = await newcomer(mesh, config, "late")
            assert late.round == mesh.nodes[0].round == 9
            (came,) = events(late, "catch_up")
            assert came["round"] == 9
            assert came["from_round"] == 0
            assert came["reason"] == "new"
            assert came["pulled"] == mesh.names[:4]
            await mesh.round(3)
            assert [event["round"] for event in events(late, "published")] == [9, 10, 11], "no stale round goes out"
            for node in mesh.nodes[:4]:
                assert late.name in [peer for peer, *_ in events(node, "merge")[-1]["merged"]]
            assert len(events(late, "merge")[-1]["merged"]) == 4
            await late.close()

    run_virtual(program())


def test_a_node_without_history_may_start_at_its_neighbours_mean() -> None:
    async def program() -> None:
        config = simulated(simulation__nodes=3, **QUICK)
        async with opened(config) as mesh:
            await mesh.round(4)
            expected = torch.stack([values(node.log.state).double() for node in mesh.nodes]).mean(0).float()
            late = await newcomer(mesh, config, "late", start="neighbours")
            assert torch.equal(late.params.tau, expected)
            assert expected.abs().max() > 0
            live = torch.cat([tensor.flatten() for tensor in late.params.live])
            assert torch.isfinite(live).all()
            base = await newcomer(mesh, config, "other")
            assert not base.params.tau.any()
            await mesh.round(1)
            published = values(late.log.state)
            kept = float((late.params.tau - published).square().sum() / late.params.tau.square().sum())
            assert kept < 1.0, "its first delta brings what it started from"
            for each in (late, base):
                await each.close()

    run_virtual(program())


def test_who_has_a_history_keeps_it_whatever_the_start_says() -> None:
    async def program() -> None:
        config = simulated(simulation__nodes=3, **QUICK)
        async with opened(config, own={f"n000{i}": {"node.start": "neighbours"} for i in range(3)}) as mesh:
            await mesh.round(2)
            node = mesh.nodes[1]
            node.params.collect()
            before = node.params.tau.clone()
            for other in mesh.nodes:
                node.peers[other.name].round = other.round
            await join(node)
            assert torch.equal(node.params.tau, before)
            assert events(node, "catch_up")[-1]["reason"] == "returned"

    run_virtual(program())


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_node_that_was_cut_off_pulls_and_jumps_before_it_publishes(mode: str) -> None:
    async def program() -> None:
        over = QUICK | {"round__mode": mode}
        async with opened(gossip(simulation__nodes=4, **over)) as mesh:
            await mesh.round(3)
            lost, others = mesh.nodes[3], mesh.nodes[:3]
            mesh.network.cut([lost.name], [node.name for node in others])
            for _ in range(8):
                await asyncio.gather(*(run_round(node, STEP_S) for node in others))
            mesh.network.heal()
            assert lost.round == 3
            for node in others:  # as its peers' gossip or greeting would tell
                lost.peers[node.name].round = node.round
            await asyncio.gather(*(run_round(node, STEP_S) for node in mesh.nodes))
            (came,) = events(lost, "catch_up")
            assert (came["from_round"], came["round"], came["reason"]) == (3, 11, "behind")
            assert came["pulled"] == [node.name for node in others]
            published = [event["round"] for event in events(lost, "published")]
            assert published == [0, 1, 2, 11]
            await mesh.round(2)
            assert {node.round for node in mesh.nodes} == {14}
            assert len(events(lost, "merge")[-1]["merged"]) == 3

    run_virtual(program())


def test_a_node_within_the_staleness_goes_on_by_itself() -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=3, **QUICK)) as mesh:
            await mesh.round(2)
            for node in mesh.nodes[1:]:
                mesh.nodes[0].peers[node.name].round = 4
            await run_round(mesh.nodes[0], STEP_S)
            assert events(mesh.nodes[0], "catch_up") == []
            assert mesh.nodes[0].round == 3

    run_virtual(program())


def test_who_returns_after_the_end_runs_the_last_round() -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=3, **(QUICK | {"schedule__rounds": 12}))) as mesh:
            for _ in range(12):
                await asyncio.gather(*(run_round(node, STEP_S) for node in mesh.nodes[:2]))
            late = mesh.nodes[2]
            for node in mesh.nodes[:2]:
                late.peers[node.name].round = node.round
            await join(late)
            assert late.round == 11
            await run_round(late, STEP_S)
            assert late.last_round
            assert {peer for peer, *_ in events(late, "merge")[-1]["merged"]} == {"n0000", "n0001"}

    run_virtual(program())


def test_nodes_that_merge_but_once_train_for_all_of_their_rounds() -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=2, **(QUICK | {"schedule__merge": "final"}))) as mesh:
            mesh.nodes[0].peers["n0001"].round = 100
            await run_round(mesh.nodes[0], STEP_S)
            assert mesh.nodes[0].round == 1

    run_virtual(program())


def test_a_partner_that_does_not_answer_delays_a_start_by_no_more_than_a_round_would_wait() -> None:
    async def program() -> None:
        async with opened(gossip(simulation__nodes=4, **QUICK)) as mesh:
            await mesh.round(5)
            node = mesh.nodes[0]
            for other in mesh.nodes[1:]:
                node.peers[other.name].round = 5
            mesh.network.cut([node.name], ["n0003"])
            asked = node.clock.now()
            await join(node)
            assert 0.1 < node.clock.now() - asked <= 1.0 + 1e-6, "it waited for the one that is cut off"

    run_virtual(program())


def test_the_state_of_a_member_that_left_is_dropped_after_as_many_rounds_as_a_log_keeps() -> None:
    async def program() -> None:
        quick = {"schedule__rounds": 200, "round__floor_s": 0.2, "round__ceiling_s": 1.0}
        config = gossip(simulation__nodes=3, log__retention=3, **quick)
        async with opened(config) as mesh:
            await mesh.round(4)
            gone = mesh.nodes.pop()
            for node in mesh.nodes:
                node.membership.judge(gone.name, MemberState.LEFT)
            await mesh.round(3)
            assert all(node.replicas.get(gone.name) is not None for node in mesh.nodes), "it may be back any time"
            await mesh.round()
            assert all(node.replicas.get(gone.name) is None for node in mesh.nodes)
            assert all(one.replicas.get(other.name) is not None for one, other in permutations(mesh.nodes, 2))
            mesh.nodes.append(gone)
            for node in mesh.nodes[:2]:
                node.membership.learn([replace(gone.membership.me, incarnation=2)], first_hand=True)
            await mesh.round(5)
            for node in mesh.nodes[:2]:
                held = node.replicas.get(gone.name)
                assert held is not None
                assert held.state.digest == gone.log.state.digest, "it starts anew with a snapshot"
            await gone.close()

    run_virtual(program())
