"""The library: a user's own loop in a mesh over real gRPC, several nodes in one process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import nn

from peermerge.node import Node
from peermerge.protocol.errors import ConfigError, DataDirError

from .daemons import DEADLINE_S, free_ports

SETTINGS = {
    "schedule.local_steps": 3,
    "schedule.rounds": 6,
    "publish.lossless": True,
    "membership.wait_s": 20.0,
    "round.ceiling_s": 20.0,
    "node.linger_s": 10.0,
}


def small_model() -> nn.Module:
    """Return a layer with equal weights on every call."""
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.arange(12.0).view(3, 4) / 12)
        model.bias.zero_()
    return model


def accuracy(_model: nn.Module) -> dict[str, float]:
    return {"accuracy": 1.0}


def pull(model: nn.Module, target: float) -> None:
    """Leave gradients that pull all weights towards `target`."""
    torch.autograd.backward(torch.stack([(p - target).square().sum() for p in model.parameters()]).sum())


def train(node: Node, model: nn.Module, target: float, steps: int = 18, *, lr: float = 0.05) -> list[bool]:
    """Pull all weights towards `target`: the loop of a user."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    ended = []
    for _ in range(steps):
        optimizer.zero_grad()
        pull(model, target)
        optimizer.step()
        ended.append(node.step())
    return ended


def in_threads(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run all jobs at once, each in its thread, and return what they returned."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [future.result(timeout=60) for future in [threads.submit(job) for job in jobs]]


def members(count: int, folder: Path, **over: Any) -> list[Callable[[nn.Module], Node]]:
    """Return constructors of nodes that know each other's addresses."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]

    def make(i: int) -> Callable[[nn.Module], Node]:
        def build(model: nn.Module) -> Node:
            others = [address for address in addresses if address != addresses[i]]
            where, settings = folder / f"n{i}", SETTINGS | over
            return Node(model, peers=others, name=f"n{i}", listen=addresses[i], data_dir=where, settings=settings)

        return build

    return [make(i) for i in range(count)]


def test_two_loops_in_two_threads_reach_a_consensus(tmp_path: Path) -> None:
    builders, models = members(2, tmp_path), [small_model(), small_model()]
    found: dict[int, dict[str, Any]] = {}
    both_asked = Barrier(2)

    def loop(i: int) -> list[bool]:
        with builders[i](models[i]) as node:
            ended = train(node, models[i], target=(-1.0, 1.0)[i])
            found[i] = node.status()
            both_asked.wait(DEADLINE_S)  # who is done leaves, and is no member then
            assert node.finished
            return ended

    ended = in_threads([lambda: loop(0), lambda: loop(1)])
    assert ended == [[False, False, True] * 6] * 2
    one, two = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert torch.allclose(one, two, atol=1e-5)
    for i, status in found.items():
        assert (status["node"], status["round"], status["rounds"]) == (f"n{i}", 6, 6)
        assert status["members"] == ["n0", "n1"]
        assert status["peers"][0]["merged"] == 6


def test_the_mean_of_what_loops_learn_is_what_they_share(tmp_path: Path) -> None:
    builders, models = members(2, tmp_path, **{"schedule.rounds": 1}), [small_model(), small_model()]
    alone = [small_model(), small_model()]

    def loop(i: int) -> None:
        with builders[i](models[i]) as node:
            train(node, models[i], target=(-1.0, 1.0)[i], steps=3)

    in_threads([lambda: loop(0), lambda: loop(1)])
    for i, model in enumerate(alone):
        with Node(model, settings={"schedule.rounds": 1, "schedule.local_steps": 3}) as lonely:
            train(lonely, model, target=(-1.0, 1.0)[i], steps=3)
    wanted = [(a + b) / 2 for a, b in zip(alone[0].parameters(), alone[1].parameters(), strict=True)]
    for model in models:
        for got, mean in zip(model.parameters(), wanted, strict=True):
            assert torch.allclose(got, mean, atol=1e-5)


def test_many_nodes_share_one_process(tmp_path: Path) -> None:
    builders, models = members(4, tmp_path, **{"schedule.rounds": 2}), [small_model() for _ in range(4)]
    together = Barrier(4)

    def loop(i: int) -> float:
        with builders[i](models[i]) as node:
            together.wait(30)
            train(node, models[i], target=float(i), steps=6)
            return float(node.status()["peers"][0]["merged"])

    assert in_threads([lambda i=i: loop(i) for i in range(4)]) == [2.0] * 4  # type: ignore[misc]
    weights = torch.stack([torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models])
    assert float((weights - weights.mean(0)).abs().max()) < 1e-5


def test_a_step_outside_of_with_says_what_to_do() -> None:
    node = Node(small_model())
    for use in (node.step, node.status, lambda: node.address, lambda: node.round, lambda: node.finished):
        with pytest.raises(ConfigError, match="use `with Node"):
            use()


def test_a_node_is_entered_once(tmp_path: Path) -> None:
    node = Node(small_model(), data_dir=tmp_path / "n")
    with node, pytest.raises(ConfigError, match="entered once"), node:
        pass
    with pytest.raises(ConfigError, match="entered once"), node:
        pass


def test_an_exception_in_the_loop_closes_the_node_and_passes_through(tmp_path: Path) -> None:
    model, data = small_model(), tmp_path / "n"

    def loop() -> None:
        with Node(model, data_dir=data, settings=SETTINGS) as node:
            train(node, model, target=1.0, steps=4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert list((data / "checkpoints").iterdir()), "what was done is saved"
    with Node(small_model(), data_dir=data, settings=SETTINGS) as again:
        assert again.round == 1, "and the folder is free for the next process"


def test_a_second_node_on_one_folder_is_refused_and_leaves_nothing_running(tmp_path: Path) -> None:
    with Node(small_model(), data_dir=tmp_path / "n") as node:
        with pytest.raises(DataDirError), Node(small_model(), data_dir=tmp_path / "n"):
            pass
        assert node.status()["node"] == "node"


def test_a_resumed_loop_goes_on_with_its_weights_and_its_optimizer(tmp_path: Path) -> None:
    data = tmp_path / "n"
    settings = SETTINGS | {"schedule.rounds": 4}
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Node(model, optimizer=optimizer, data_dir=data, settings=settings) as node:
        for _ in range(6):
            optimizer.zero_grad()
            pull(model, 0.0)
            optimizer.step()
            node.step()
    again = small_model()
    fresh = torch.optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
    with Node(again, optimizer=fresh, data_dir=data, settings=settings) as node:
        assert node.round == 2
        for old, new in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.allclose(old, new, atol=1e-6)
        momenta = [entry["momentum_buffer"] for entry in fresh.state_dict()["state"].values()]
        wanted = [entry["momentum_buffer"] for entry in optimizer.state_dict()["state"].values()]
        assert len(momenta) == 2
        assert all(torch.equal(a, b) for a, b in zip(momenta, wanted, strict=True))


def test_steps_after_the_schedule_only_train(tmp_path: Path) -> None:
    model = small_model()
    with Node(model, data_dir=tmp_path / "n", settings=SETTINGS | {"schedule.rounds": 1}) as node:
        assert train(node, model, target=0.0, steps=9) == [False, False, True, *[False] * 6]
        assert node.finished
        assert node.round == 1


def test_the_users_evaluation_is_what_the_status_shows(tmp_path: Path) -> None:
    model = small_model()
    with Node(model, evaluate=accuracy, data_dir=tmp_path / "n", settings=SETTINGS) as node:
        train(node, model, target=0.0, steps=3)
        assert node.status()["metrics"] == {"accuracy": 1.0}


def test_without_a_data_directory_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = small_model()
    with Node(model, settings=SETTINGS) as node:
        train(node, model, target=0.0, steps=3)
    assert list(tmp_path.iterdir()) == []
