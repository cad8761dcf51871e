"""Nodes that merge by what they measured of each other, and what they do where that does not arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from peermerge.node.attachments import keep
from peermerge.node.correct import Contribution, corrections
from peermerge.node.participant import Participant
from peermerge.node.statistics import Measured
from peermerge.node.status import StatusService
from peermerge.node.storage import MemoryStorage
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.statistics import pack

from .mesh import CPU, SMALL, Mesh, opened, simulated

ROUNDS = 3
KINDS = {"ota": "second_moment", "fisher": "fisher", "regmean": "gram"}
by_method = pytest.mark.parametrize(("method", "kind"), KINDS.items())


def pair(method: str, optimizer: str = "adamw", **over: Any) -> Any:
    arguments = SMALL | {"optimizer": optimizer, "lr": 0.01}
    return simulated(merge__method=method, simulation__nodes=2, task__arguments=arguments, **over)


def measured(node: Participant, kind: str) -> Measured:
    return node.statistics[kind]


def held(node: Participant, peer: str, kind: str) -> Measured:
    replica = node.replicas.get(peer)
    assert replica is not None
    found = replica.statistics[kind]
    assert isinstance(found, Measured)
    return found


def moved(node: Participant, other: Participant, mine: Mapping[str, Measured], theirs: Mapping[str, Measured]) -> Any:
    """Return the correction of a merge with these statistics."""
    replica = node.replicas.get(other.name)
    assert replica is not None
    neighbour = Contribution(other.name, replica.state, 0.5, statistics=theirs)
    own = replace(node.contribution, statistics=mine)
    moves = corrections(node.method, own, [neighbour], "own", node.params.base)
    return torch.cat([move for _, move in moves])


@by_method
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_neighbours_hold_what_each_measured_and_merge_by_it(method: str, kind: str, optimizer: str) -> None:
    async def program() -> None:
        async with opened(pair(method, optimizer)) as mesh:
            await mesh.round(ROUNDS)
            one, other = mesh.nodes
            assert mesh.skipped() == {}
            assert one.peers[other.name].merged == ROUNDS
            theirs = held(one, other.name, kind)
            tensors = list(theirs.statistics)
            assert tensors
            for t in tensors:
                assert torch.equal(theirs.tensor(t, CPU), measured(other, kind).tensor(t, CPU))
                assert theirs.tensor(t, CPU).any()
            mine = one.statistics
            by_statistics = moved(one, other, mine, {kind: theirs})
            assert not torch.allclose(by_statistics, moved(one, other, {}, {}))
            assert torch.equal(by_statistics, moved(one, other, mine, other.statistics))

    run_virtual(program())


@by_method
def test_an_evaluated_merge_uses_the_statistics_too(method: str, kind: str) -> None:
    async def program() -> None:
        async with opened(pair(method, schedule__rounds=1)) as mesh:
            one, other = mesh.nodes
            shown: list[torch.Tensor] = []

            def evaluate() -> dict[str, float]:
                live = one.params.state_dict().values()
                shown.append(torch.cat([tensor.detach().flatten().clone() for tensor in live]))
                return {}

            one.workload.evaluate = evaluate  # type: ignore[method-assign]
            await mesh.round()
            published = torch.cat([one.log.state.tensor(t, CPU) for t in range(len(one.manifest.tensors))])
            start = published + torch.cat([one.params.base[place] for _, place in one.manifest.slices()])
            move = moved(one, other, one.statistics, {kind: held(one, other.name, kind)})
            torch.testing.assert_close(shown[-1], start + move)
            assert not torch.allclose(shown[-1], start + moved(one, other, {}, {}))

    run_virtual(program())


class Altering(MemoryStorage):
    """Alters what is kept for peers under its digest."""

    def __init__(self, alter: Any) -> None:
        super().__init__()
        self._alter = alter

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write something else."""
        if (altered := self._alter(data)) is not None:
            super().write(name, altered, durable=durable)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


async def alone_refused(mesh: Mesh, reason: str) -> None:
    """Run rounds; the first node refuses the second's statistics and says why, everything else goes on."""
    await mesh.round(ROUNDS)
    one, other = mesh.nodes
    assert one.peers[other.name].skipped == {reason: ROUNDS}
    assert reason in one.peers[other.name].last_error
    assert one.replicas.point(other.name) == other.log.point, "the frames count all the same"
    assert other.peers[one.name].skipped == {}
    assert other.peers[one.name].merged == ROUNDS


@pytest.mark.parametrize(
    ("alter", "reason"),
    [(flipped, "DIGEST_MISMATCH"), (lambda data: data[:-1], "NO_STATISTICS"), (lambda data: None, "NO_STATISTICS")],
)
@by_method
def test_damaged_and_missing_attachments_are_refused_and_explained(
    method: str, kind: str, alter: Any, reason: str
) -> None:
    async def program() -> None:
        async with opened(pair(method)) as mesh:
            mesh.nodes[1].storage = Altering(alter)
            await alone_refused(mesh, reason)

    run_virtual(program())


@by_method
def test_statistics_that_cannot_be_are_refused_and_explained(method: str, kind: str) -> None:
    async def program() -> None:
        async with opened(pair(method)) as mesh:
            liar = mesh.nodes[1]
            honest = liar.measuring.measure

            def lie() -> dict[str, bytes]:
                return {kind: honest()[kind][:-4] + np.float32(np.nan).tobytes()}

            def measure() -> None:
                liar.attachments = keep(liar.storage, {kind.replace("_", "-"): lie()[kind]})
                liar.statistics = {kind: Measured.open(honest()[kind], kind, liar.manifest)}

            liar.measure = measure  # type: ignore[method-assign]
            await alone_refused(mesh, "NON_FINITE")

    run_virtual(program())


@by_method
def test_over_a_link_that_carries_frames_and_no_attachments_the_frames_count(method: str, kind: str) -> None:
    async def program() -> None:
        async with opened(pair(method)) as mesh:
            one, other = mesh.nodes
            assert other.service._budget.portion > 50
            other.service._budget.portion = 50
            follow = one.gather._apply

            def cut(*frame: Any) -> Any:
                mesh.network.cut_one_way([other.name], [one.name])
                return follow(*frame)

            one.gather._apply = cut
            for round_ in range(ROUNDS):
                await mesh.round()
                mesh.network.heal()
                assert one.replicas.point(other.name) == other.log.point
                assert one.replicas.point(other.name).version == round_ + 1
            assert one.peers[other.name].skipped == {"NO_STATISTICS": ROUNDS}
            assert "NO_STATISTICS" in one.peers[other.name].last_error
            assert other.peers[one.name].skipped == {}

            one.gather._apply = follow
            await mesh.round()
            assert one.peers[other.name].skipped == {"NO_STATISTICS": ROUNDS}
            assert one.peers[other.name].merged == 1

    run_virtual(program())


def test_nodes_that_measure_nothing_average() -> None:
    async def program() -> None:
        async with opened(pair("regmean")) as mesh:
            for node in mesh.nodes:
                node.measuring.measure = lambda node=node: {"gram": pack("gram", {}, node.manifest)}  # type: ignore
            await mesh.round(ROUNDS)
            assert mesh.skipped() == {}
            one, other = mesh.nodes
            mean = moved(one, other, {}, {})
            assert torch.equal(moved(one, other, one.statistics, other.statistics), mean)

    run_virtual(program())


def test_a_node_without_calibration_inputs_says_that_it_averages() -> None:
    async def program() -> None:
        async with opened(pair("regmean")) as mesh:
            one, other = mesh.nodes
            one.workload.calibration = lambda: ()  # type: ignore[method-assign]
            await mesh.round()
            (warning,) = StatusService(one).all_warnings()
            assert "gram of no tensor" in warning
            assert StatusService(other).all_warnings() == []

    run_virtual(program())


def test_statistics_of_the_last_two_versions_are_kept_for_those_who_are_reading() -> None:
    async def program() -> None:
        async with opened(pair("ota")) as mesh:
            announced: dict[str, list[str]] = {node.name: [] for node in mesh.nodes}
            for _ in range(ROUNDS):
                await mesh.round()
                for node in mesh.nodes:
                    announced[node.name] += [f"statistics/{a.sha256.hex()}" for a in node.attachments]
            for node in mesh.nodes:
                assert node.storage.names("statistics") == sorted(announced[node.name][-2:])
                assert node.log.header is not None
                assert node.log.header.attachments == node.attachments

    run_virtual(program())


def test_other_methods_measure_and_announce_nothing() -> None:
    async def program() -> None:
        async with opened(pair("weighted-mean")) as mesh:
            await mesh.round()
            for node in mesh.nodes:
                assert node.attachments == ()
                assert node.storage.names("statistics") == []

    run_virtual(program())
