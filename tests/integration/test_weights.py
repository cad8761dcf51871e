"""Merges relative to the base, weighed by what contributors report of their training, and the step they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from peermerge.node.config import NodeConfig
from peermerge.node.events import EventList
from peermerge.node.merging import MergeMethod, Site
from peermerge.node.merging.average import WeightedMean
from peermerge.node.merging.metric_weights import weights_by_loss, weights_by_steps
from peermerge.node.participant import Participant
from peermerge.node.tasks import Shard, TrainReport, load_task
from peermerge.node.workload import TaskWorkload, Workload
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.errors import ConfigError

from .mesh import CPU, SMALL, Mesh, digits_workload, gossip, opened, simulated

NODES = 3
Own = Mapping[str, Mapping[str, Any]]


def final(weights: str, **over: Any) -> Any:
    """Return a run of one round with one merge relative to the base."""
    settings = {"merge__weights": weights, "merge__reference": "base", "schedule__merge": "final"}
    return simulated(**{"simulation__nodes": NODES, "schedule__rounds": 1} | settings | over)


class Watched(MergeMethod):
    """The weighted mean, which remembers what it was given and what it returned."""

    def __init__(self) -> None:
        self.weights: list[tuple[float, ...]] = []
        self.merged: list[Tensor] = []

    def merge(self, deltas: Sequence[Tensor], site: Site) -> Tensor:
        """Return the mean."""
        self.weights.append(site.weights)
        self.merged.append(WeightedMean().merge(deltas, site))
        return self.merged[-1]


def watch(mesh: Mesh) -> list[Watched]:
    """Let every node merge by a method that can be asked."""
    methods = [Watched() for _ in mesh.nodes]
    for node, method in zip(mesh.nodes, methods, strict=True):
        node.method = method
    return methods


def event(node: Participant) -> dict[str, Any]:
    """Return a node's newest event of a round."""
    assert isinstance(node.events, EventList)
    return node.events.events[-1]


def weights_used(config: Any, own: Own | None = None, workload: Callable[..., Workload] = digits_workload) -> Any:
    """Run one round; return what every node reports of its training, and the weights it gave to the others."""

    async def program() -> list[tuple[dict[str, Any], dict[str, float]]]:
        async with opened(config, own=own, workload=workload) as mesh:
            await mesh.round()
            assert mesh.skipped() == {}
            return [(event(node), event(node)["merged"]) for node in mesh.nodes]

    return run_virtual(program())


def assert_used(found: Any, expected: Sequence[float]) -> None:
    """Check that every node gave the others these weights, of which no two are equal."""
    assert len({round(weight, 4) for weight in expected}) == len(expected) == NODES
    for i, (_, merged) in enumerate(found):
        others = [weight for j, weight in enumerate(expected) if j != i]
        assert list(merged.values()) == pytest.approx(others, abs=2e-6)


def test_lower_losses_weigh_more() -> None:
    found = weights_used(final("loss"))
    assert_used(found, weights_by_loss([reported["train_loss"] for reported, _ in found]))


def test_more_steps_weigh_more() -> None:
    steps = [2, 5, 9]
    found = weights_used(final("steps"), {f"n000{i}": {"schedule.local_steps": n} for i, n in enumerate(steps)})
    assert [reported["steps"] for reported, _ in found] == steps
    assert_used(found, weights_by_steps(steps))


def test_more_samples_weigh_more_whatever_the_steps() -> None:
    batches = [8, 16, 40]
    own = {f"n000{i}": {"task.arguments": SMALL | {"batch": batch}} for i, batch in enumerate(batches)}
    found = weights_used(final("samples"), own)
    assert {reported["steps"] for reported, _ in found} == {2}
    assert_used(found, weights_by_steps(batches))


def test_otherwise_the_topology_says() -> None:
    for _, merged in weights_used(final("mixing")):
        assert list(merged.values()) == pytest.approx([1 / NODES] * (NODES - 1), abs=1e-6)


class Silent(TaskWorkload):
    """Trains like others and counts steps alone, as a user's own loop."""

    def train(self, steps: int) -> TrainReport:
        """Train."""
        return TrainReport(super().train(steps).steps, 0, 0.0)


def silent(name: str) -> Callable[[NodeConfig], Workload]:
    """Return a maker of workloads of which this node's says nothing of losses."""

    def make(config: NodeConfig) -> Workload:
        if config.node.name != name:
            return digits_workload(config)
        shard = Shard(config.task.index, config.task.count, config.seed)
        return Silent(load_task(config.task.name, shard, config.task.arguments), CPU)

    return make


def test_who_knows_no_loss_weighs_as_little_as_the_worst() -> None:
    found = weights_used(final("loss"), workload=silent("n0001"))
    losses = [found[0][0]["train_loss"], found[2][0]["train_loss"]]
    first, last = weights_by_loss([losses[0], max(losses), losses[1]])[0::2]
    assert list(found[1][1].values()) == pytest.approx([first, last], abs=2e-6)
    assert found[0][1]["n0001"] == pytest.approx(min(first, last), abs=2e-6)


def test_where_nobody_knows_a_loss_all_weigh_the_same() -> None:
    own = {f"n000{i}": {"schedule.local_steps": 0} for i in range(NODES)}
    for _, merged in weights_used(final("loss", simulation__start_noise=0.05), own):
        assert list(merged.values()) == pytest.approx([1 / NODES] * (NODES - 1), abs=1e-6)


def test_the_merged_model_is_made_by_these_weights() -> None:
    async def program() -> None:
        steps = [2, 5, 9]
        own = {f"n000{i}": {"schedule.local_steps": n} for i, n in enumerate(steps)}
        async with opened(final("steps", publish__lossless=True), own=own) as mesh:
            await mesh.round()
            states = [torch.cat([n.log.state.tensor(t, CPU) for t in range(len(n.params.live))]) for n in mesh.nodes]
            expected = sum(w * state for w, state in zip(weights_by_steps(steps), states, strict=True))
            for node in mesh.nodes:
                tau = torch.cat([node.params.tau[place] for _, place in node.manifest.slices()])
                torch.testing.assert_close(tau, expected, rtol=1e-4, atol=1e-5)

    run_virtual(program())


def test_nodes_that_merge_the_same_states_merge_the_same_bits() -> None:
    async def program() -> None:
        # Weights of many rounds: each is another chance of one that is rounded differently by two nodes.
        rounds = {"schedule__merge": "every", "schedule__rounds": 0, "round__evaluate_every": 0}
        async with opened(final("loss", simulation__nodes=4, **rounds)) as mesh:
            methods = watch(mesh)
            await mesh.round(25)
            assert mesh.skipped() == {}
            one, *others = methods
            assert len(set(one.weights)) > 20
            for other in others:
                assert other.weights == one.weights
                assert all(torch.equal(a, b) for a, b in zip(one.merged, other.merged, strict=True))

    run_virtual(program())


@pytest.mark.parametrize("reference", ["own", "base"])
def test_a_fixed_step_is_taken_once_by_every_tensor(reference: str) -> None:
    async def program() -> None:
        over = {"merge__reference": reference, "merge__gamma": 0.5, "publish__lossless": True}
        async with opened(gossip(simulation__nodes=2, **over)) as mesh:
            (one, other), places = mesh.taus(), [place for _, place in mesh.nodes[0].manifest.slices()]
            before = torch.stack([(one - other)[place].norm() for place in places])
            await mesh.round()
            (one, other) = mesh.taus()
            after = torch.stack([(one - other)[place].norm() for place in places])
            torch.testing.assert_close(after, before / 2, rtol=1e-3, atol=1e-5)

    run_virtual(program())


@pytest.mark.parametrize("weights", ["loss", "steps", "samples"])
def test_weights_of_ones_own_are_refused_where_both_ends_of_an_edge_must_agree(weights: str) -> None:
    with pytest.raises(ConfigError, match=f"weights = '{weights}' needs reference = 'base'"):
        simulated(merge__weights=weights)
    assert simulated(merge__weights=weights, merge__reference="base").merge.weights == weights
