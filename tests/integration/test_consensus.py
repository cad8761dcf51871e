"""Pure consensus: nodes that only merge draw together, and the mean of the network stays where it was."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.correct import DENSE_STEP
from peermerge.node.ledger import Ledger
from peermerge.node.state import State
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import DivergedError

from .mesh import Mesh, gossip, opened

EXACT = 1e-6
"""Largest move of an entry of the mean, relative to the largest weight."""
HEALTHY = {"simulation__nodes": 8, "schedule__rounds": 1000}


async def spreads(mesh: Mesh, rounds: int) -> list[float]:
    """Return the distance to the mean before and after each of so many rounds."""
    seen = [mesh.spread()]
    for _ in range(rounds):
        await mesh.round()
        seen.append(mesh.spread())
    return seen


def falls(values: list[float]) -> bool:
    return all(b < a for a, b in pairwise(values))


def consensus(rounds: int, **over: Any) -> tuple[list[float], float]:
    """Return the distances to the mean and how far the mean has moved."""

    async def program() -> tuple[list[float], float]:
        async with opened(gossip(**{**HEALTHY, **over})) as mesh:
            start = mesh.mean()
            return await spreads(mesh, rounds), mesh.drift(start)

    return run_virtual(program())


@pytest.mark.parametrize("topology", ["ring", "complete", "exponential"])
def test_nodes_draw_together_around_a_mean_that_stays(topology: str) -> None:
    seen, drift = consensus(40, topology__name=topology, publish__density=0.1)
    assert falls(seen)
    assert seen[-1] < seen[0] / 10
    assert drift < EXACT


@pytest.mark.parametrize("topology", ["ring", "complete", "exponential"])
def test_one_per_cent_of_the_entries_is_enough_to_draw_together(topology: str) -> None:
    seen, drift = consensus(12, topology__name=topology, publish__density=0.01)
    assert falls(seen)
    assert drift < EXACT


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("density", [0.01, 0.1])
def test_consensus_goes_on_for_three_hundred_rounds(density: float) -> None:
    seen, drift = consensus(300, simulation__nodes=5, topology__name="ring", publish__density=density)
    assert seen[-1] < seen[0] * (1e-3 if density == 0.1 else 0.5)
    assert falls([distance for distance in seen[::10] if distance > 1e-5]), "down to the rounding of float32"
    assert drift < EXACT


@pytest.mark.parametrize(
    "publish",
    [
        {"publish__bits": 0.5},
        {"publish__relative_error": 0.5},
        {"publish__density": 0.1, "publish__selection": "tensor"},
        {"publish__density": 0.1, "publish__sparsifier": "random"},
    ],
    ids=lambda p: ",".join(k.removeprefix("publish__") for k in p),
)
def test_every_budget_keeps_the_mean_and_draws_together(publish: Mapping[str, Any]) -> None:
    seen, drift = consensus(12, simulation__nodes=5, topology__name="ring", **publish)
    assert seen[-1] < seen[0]
    assert drift < EXACT


def test_one_lossless_round_of_a_complete_graph_is_the_mean_itself() -> None:
    seen, drift = consensus(1, topology__name="complete", publish__lossless=True)
    assert seen[-1] < 1e-6 * seen[0]
    assert drift < EXACT


def test_matchings_give_the_exact_mean_of_eight_nodes_in_three_rounds() -> None:
    seen, drift = consensus(3, topology__name="one-peer-exponential", publish__lossless=True)
    assert seen[2] > 0.1 * seen[0]
    assert seen[3] < 1e-6 * seen[0]
    assert drift < EXACT


def test_matchings_of_compressed_states_keep_the_mean() -> None:
    seen, drift = consensus(15, topology__name="one-peer-exponential", publish__density=0.1)
    assert seen[-1] < seen[0]
    assert drift < EXACT


def test_a_measured_step_draws_together_where_a_fixed_step_of_one_diverges() -> None:
    rough = {"simulation__nodes": 5, "publish__density": 0.1, "publish__sparsifier": "random"}
    measured, _ = consensus(40, **rough)
    fixed, _ = consensus(40, **rough, merge__gamma=1.0)
    assert measured[-1] < measured[0] / 3
    assert fixed[-1] > fixed[0] * 100


@pytest.mark.slow
def test_a_measured_step_still_draws_together_after_a_hundred_and_fifty_rounds() -> None:
    measured, drift = consensus(150, simulation__nodes=5, publish__density=0.1)
    fixed, _ = consensus(60, simulation__nodes=5, publish__density=0.1, merge__gamma=1.0)
    assert measured[-1] < 1e-4 * measured[0]
    assert fixed[-1] > 0.2 * fixed[0]
    assert drift < EXACT


def test_a_run_that_diverges_says_so_before_it_ends() -> None:
    async def program() -> list[str]:
        rough = {"simulation__nodes": 5, "publish__sparsifier": "random", "merge__gamma": 1.0, "guard__alarm_rounds": 5}
        async with opened(gossip(**{**HEALTHY, **rough})) as mesh:
            with pytest.raises(DivergedError, match=r"merge\.gamma"):
                await mesh.round(200)
            return [alarm.warning or "" for alarm in mesh.nodes[0].alarms]

    assert all(warning.startswith("DIVERGENCE") for warning in run_virtual(program()))


def test_dense_graphs_step_less_unless_nothing_is_lost() -> None:
    async def gammas(**over: Any) -> list[tuple[float, float]]:
        async with opened(gossip(**{**HEALTHY, **over})) as mesh:
            await mesh.round(2)
            lowest = min(node.omega.value for node in mesh.nodes)
            return [(node.progress.gamma, lowest) for node in mesh.nodes]

    sparse = run_virtual(gammas(topology__name="ring"))
    dense = run_virtual(gammas(topology__name="complete"))
    exact = run_virtual(gammas(topology__name="complete", publish__lossless=True))
    assert min(g for g, _ in sparse) == pytest.approx(sparse[0][1], rel=1e-6)
    assert all(g == pytest.approx(DENSE_STEP * lowest, rel=1e-6) for g, lowest in dense)
    assert all(g == pytest.approx(1.0, abs=1e-3) for g, _ in exact)


def lossy(topology: str, rounds: int = 15, calm: int = 5, **more: Any) -> tuple[float, float, dict[str, int]]:
    """Return the mean's worst drift while 5 % of the calls are lost, its drift at the end, and what was skipped."""

    async def program() -> tuple[float, float, dict[str, int]]:
        over = {**HEALTHY, "topology__name": topology, "simulation__loss": 0.05, **more}
        async with opened(gossip(**over)) as mesh:
            start, worst = mesh.mean(), 0.0
            for _ in range(rounds):
                await mesh.round()
                worst = max(worst, mesh.drift(start))
            for a in mesh.names:
                for b in mesh.names:
                    mesh.network.set_link(a, b, loss=0.0)
            await mesh.round(calm)
            return worst, mesh.drift(start), mesh.skipped()

    return run_virtual(program())


@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_what_lost_messages_took_from_the_mean_is_paid_back(topology: str) -> None:
    worst, after, skipped = lossy(topology)
    assert skipped
    assert worst > 1e-5
    assert after < EXACT


def test_without_paying_back_lost_messages_move_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "settle", lambda *_: None)
    _, after, _ = lossy("ring")
    assert after > 1e-5


SHORT_LOGS: Mapping[str, Any] = {"simulation__loss": 0.1, "log__retention": 4}
"""Messages are lost, and a snapshot is often cheaper than what leads to it."""


def test_no_snapshot_stands_in_for_what_tells_of_merges_to_pay_back() -> None:
    _, after, skipped = lossy("ring", calm=6, **SHORT_LOGS)
    assert skipped
    assert after < EXACT


def test_snapshots_that_stand_in_for_it_would_move_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "told", lambda *_: 0)
    _, after, _ = lossy("ring", calm=6, **SHORT_LOGS)
    assert after > 1e-5


def test_an_edge_that_one_side_does_not_list_is_no_edge() -> None:
    async def program() -> tuple[float, list[float], int]:
        everybody = [f"n{i:04d}" for i in range(4)]
        learns = dict.fromkeys(everybody, everybody) | {"n0000": everybody[:3]}
        async with opened(gossip(topology__name="complete"), learns=learns) as mesh:
            start = mesh.mean()
            seen = await spreads(mesh, 4)
            record = mesh.nodes[3].peers["n0000"]
            return mesh.drift(start), seen, record.skipped["UNKNOWN_SENDER"]

    drift, seen, skipped = run_virtual(program())
    assert drift < EXACT
    assert falls(seen)
    assert skipped == 4


def test_what_differing_views_move_is_paid_back_as_soon_as_views_agree() -> None:
    async def program() -> tuple[float, float, float]:
        everybody = [f"n{i:04d}" for i in range(6)]
        learns = dict.fromkeys(everybody, everybody) | {"n0001": [*everybody[:3], everybody[5]]}
        config = gossip(simulation__nodes=6, schedule__rounds=50, topology__name="ring")
        async with opened(config, learns=learns) as mesh:
            start, before = mesh.mean(), mesh.spread()
            await mesh.round(8)
            mesh.nodes[1].membership.learn([node.membership.me for node in mesh.nodes])
            await mesh.round(2)
            return mesh.drift(start), before, mesh.spread()

    drift, before, after = run_virtual(program())
    assert drift < EXACT
    assert after < before


def test_views_grow_to_the_union_of_what_is_listed() -> None:
    async def program() -> tuple[set[tuple[str, ...]], set[int], float]:
        config = gossip(simulation__nodes=3, topology__name="complete", publish__lossless=True)
        greets = {"n0000": ["n0001"], "n0001": ["n0002"], "n0002": []}
        async with opened(config, greets=greets) as mesh:
            views = [node.membership.view() for node in mesh.nodes]
            await mesh.round()
            return {view.names for view in views}, {view.id for view in views}, mesh.spread()

    names, ids, spread = run_virtual(program())
    assert names == {("n0000", "n0001", "n0002")}
    assert len(ids) == 1
    assert spread < 1e-5


def test_a_partition_heals_without_a_trace_in_the_mean() -> None:
    async def program() -> tuple[list[float], float, dict[str, int]]:
        config = gossip(simulation__nodes=6, schedule__rounds=50, round__ceiling_s=5.0, topology__name="complete")
        async with opened(config) as mesh:
            start = mesh.mean()
            await mesh.round(2)
            mesh.network.cut(mesh.names[:3], mesh.names[3:])
            await mesh.round(3)
            cut = between(mesh)
            mesh.network.heal()
            await mesh.round(10)
            return [cut, between(mesh)], mesh.drift(start), mesh.skipped()

    (cut, healed), drift, skipped = run_virtual(program())
    assert skipped.keys() <= {"DEADLINE", "TRANSPORT"}
    assert skipped
    assert healed < cut / 2
    assert drift < EXACT


def between(mesh: Mesh) -> float:
    """Return the distance between the means of the two halves."""
    taus = mesh.taus()
    half = len(taus) // 2
    return float((taus[:half].mean(0) - taus[half:].mean(0)).norm())


def test_a_full_final_merge_over_a_ring_gives_everybody_the_mean_and_keeps_no_stranger() -> None:
    async def program() -> tuple[float, float, list[set[str]]]:
        config = gossip(
            simulation__nodes=6,
            schedule__rounds=3,
            schedule__final="all",
            topology__name="ring",
            publish__lossless=True,
        )
        async with opened(config) as mesh:
            start = mesh.mean()
            await mesh.round(3)
            kept = [{other for other in mesh.names if node.replicas.get(other)} for node in mesh.nodes]
            return mesh.spread(), mesh.drift(start), kept

    spread, drift, kept = run_virtual(program())
    assert spread < 1e-5
    assert drift < EXACT
    assert [len(names) for names in kept] == [2] * 6


def test_replicas_equal_the_states_they_follow() -> None:
    async def program() -> list[tuple[State, State]]:
        async with opened(gossip(topology__name="complete", publish__density=0.05)) as mesh:
            await mesh.round(4)
            held = [(n.replicas.get(o.name), o) for n in mesh.nodes for o in mesh.nodes if n is not o]
            return [(replica.state, other.log.state) for replica, other in held if replica is not None]

    pairs = run_virtual(program())
    assert len(pairs) == 12
    for replica, state in pairs:
        assert replica.digest == state.digest
        assert (replica.levels == state.levels).all()
        assert (replica.exponents == state.exponents).all()


def moved(reference: str) -> float:
    """Return by what share of its norm TIES relative to `reference` moves the mean in twenty rounds."""

    async def program() -> float:
        over = {"merge__method": "ties", "merge__parameters": {"density": 0.2}, "merge__reference": reference}
        config = gossip(simulation__nodes=6, schedule__rounds=50, topology__name="ring", **over)
        async with opened(config) as mesh:
            start: Tensor = mesh.mean()
            await mesh.round(20)
            assert torch.isfinite(mesh.taus()).all()
            return float((mesh.mean() - start).norm() / start.norm())

    return run_virtual(program())


def test_ties_relative_to_oneself_moves_the_mean_far_less_than_relative_to_the_base() -> None:
    own, base = moved("own"), moved("base")
    assert base > 5 * own
