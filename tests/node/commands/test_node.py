from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from peermerge.node.config import NodeConfig, load

from .command_line import run


class Daemon(ModuleType):
    """Stands for peermerge.node.daemon: remembers what it was started with."""

    def __init__(self) -> None:
        super().__init__("peermerge.node.daemon")
        self.calls: list[tuple[NodeConfig, str]] = []

    def start(self, config: NodeConfig, mode: str) -> int:
        self.calls.append((config, mode))
        return 0


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    fake = Daemon()
    monkeypatch.setitem(sys.modules, "peermerge.node.daemon", fake)
    return fake


def started(daemon: Daemon, *arguments: str) -> NodeConfig:
    done = run("node", "start", *arguments)
    assert (done.code, done.err) == (0, "")
    return daemon.calls[-1][0]


def test_a_node_starts_without_any_file(daemon: Daemon) -> None:
    assert started(daemon) == NodeConfig()


def test_every_flag_reaches_its_key(daemon: Daemon) -> None:
    flags = {
        "--name": "b",
        "--listen": "127.0.0.1:7001",
        "--advertise": "localhost:7001",
        "--data-dir": "b-data",
        "--metrics": "127.0.0.1:9100",
        "--task": "mine:task",
    }
    config = started(daemon, *(word for pair in flags.items() for word in pair), "--insecure")
    node = config.node
    assert [node.name, node.listen, node.advertise, node.data_dir, node.metrics, config.task.name] == [*flags.values()]
    assert node.insecure


def test_repeated_peers_replace_those_of_the_file(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[membership]\npeers = ["127.0.0.1:1"]\n[node]\nname = "kept"')
    config = started(daemon, "--config", str(file), "--peer", "127.0.0.1:2", "--peer", "127.0.0.1:3")
    assert config.membership.peers == ("127.0.0.1:2", "127.0.0.1:3")
    assert config.node.name == "kept"


def test_set_and_task_arguments_are_read_as_toml_or_text(daemon: Daemon) -> None:
    values = ["--set", "publish.density=0.05", "--task-arg", "partition=dirichlet:0.1", "--task-arg", "width=64"]
    config = started(daemon, *values)
    assert config.publish.density == 0.05
    assert config.task.arguments == {"partition": "dirichlet:0.1", "width": 64}


@pytest.mark.parametrize(("flags", "mode"), [((), "auto"), (("--resume",), "resume"), (("--fresh",), "fresh")])
def test_the_mode_is_handed_on(daemon: Daemon, flags: tuple[str, ...], mode: str) -> None:
    started(daemon, *flags)
    assert daemon.calls[-1][1] == mode


def test_the_exit_code_is_the_daemons(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_config: NodeConfig, _mode: str) -> int:
        return 5

    monkeypatch.setattr(daemon, "start", failing)
    assert run("node", "start").code == 5


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--set", "publish.densty=0.1"), "did you mean 'density'?"),
        (("--set", "density"), "write key=value"),
        (("--task-arg", "=3"), "write key=value"),
        (("--config", "nowhere.toml"), "no such file"),
        (("--listen",), "requires an argument"),
    ],
)
def test_mistakes_are_told_with_the_cure(daemon: Daemon, arguments: tuple[str, ...], hint: str) -> None:
    done = run("node", "start", *arguments)
    assert done.code == 2
    assert hint in done.err
    assert not daemon.calls


def test_init_writes_the_defaults_and_says_what_comes_next(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    done = run("node", "init", str(file))
    assert done.code == 0
    assert f"--config {file}" in done.out
    assert load(NodeConfig, file, {}) == NodeConfig()


def test_init_overwrites_only_when_forced(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("precious")
    refused = run("node", "init", str(file))
    assert refused.code == 2
    assert "--force" in refused.err
    assert file.read_text() == "precious"
    assert run("node", "init", str(file), "--force").code == 0
    assert "precious" not in file.read_text()


def test_init_says_where_it_may_not_write(tmp_path: Path) -> None:
    done: Any = run("node", "init", str(tmp_path / "absent" / "node.toml"))
    assert done.code == 2
    assert "cannot be written" in done.err
