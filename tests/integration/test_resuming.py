"""A run that is killed and resumed ends with the very weights of one that was not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peermerge.node.config import NodeConfig
from peermerge.node.round import run_round
from peermerge.node.simulation.nodes import node_config
from peermerge.node.storage import MemoryStorage
from peermerge.node.tasks import Shard, TrainReport, load_task
from peermerge.node.workload import TaskWorkload, Workload
from peermerge.protocol.clock import run_virtual
from peermerge.protocol.memory_transport import MemoryNetwork

from .mesh import CPU, STEP_S, digits_workload, participant, simulated
from .test_history import copy_of

ROUNDS, KILLED = 9, 6
LOSSLESS = {"publish__lossless": True}
DRAWN = {"publish__density": 0.3, "publish__sparsifier": "random"}


class Noisy:
    """The digits task with noise from torch's global generator, as dropout has it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def train(self, model: nn.Module, steps: int, device: torch.device) -> TrainReport:
        report: TrainReport = self._inner.train(model, steps, device)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=1e-3)
        return report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def noisy_workload(config: NodeConfig) -> Workload:
    shard = Shard(config.task.index, config.task.count, config.seed)
    task: Any = Noisy(load_task(config.task.name, shard, config.task.arguments))
    return TaskWorkload(task, CPU)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("over", "workload"),
    [(LOSSLESS, digits_workload), (LOSSLESS, noisy_workload), (DRAWN, digits_workload)],
    ids=["lossless", "noise", "random draws"],
)
def test_a_kill_after_a_checkpoint_changes_nothing(optimizer: str, over: dict[str, Any], workload: Any) -> None:
    arguments = {"width": 4, "hidden": 8, "optimizer": optimizer, "lr": 0.01}
    settings: dict[str, Any] = {"task__arguments": arguments, "schedule__rounds": ROUNDS, "log__checkpoint_every": 3}
    config = node_config(simulated(simulation__nodes=1, round__evaluate_every=0, **settings, **over), 0)
    backup: list[MemoryStorage] = []

    async def run(storage: MemoryStorage, incarnation: int) -> tuple[torch.Tensor, int]:
        torch.manual_seed(incarnation)
        node = participant(config, MemoryNetwork(), workload, storage=storage, incarnation=incarnation)
        assert node.recover() == []
        await node.open()
        first = node.round
        while not node.last_round:
            if node.round == KILLED and not backup:
                backup.append(copy_of(storage))
            await run_round(node, STEP_S)
        await node.close()
        return torch.cat([tensor.flatten().clone() for tensor in node.params.live]), first

    before = torch.get_rng_state()
    try:
        whole, _ = run_virtual(run(MemoryStorage(), 1))
        resumed, first = run_virtual(run(backup[0], 2))
    finally:
        torch.set_rng_state(before)
    assert first == KILLED
    assert torch.equal(whole, resumed)
