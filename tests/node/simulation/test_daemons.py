"""Folders, ports and processes of real nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from peermerge.node.config import NodeConfig, SimulationConfig, load
from peermerge.node.simulation.daemons import free_ports, prepare

ORPHAN = """
import os, subprocess, sys
code = "import os, signal; from peermerge.node.simulation.child import end_with; end_with(os.getppid());"
code += "print('ready', flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code])
child.wait()
"""


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


def test_every_node_gets_a_file_that_names_all_the_others(tmp_path: Path) -> None:
    config = load(SimulationConfig, None, {"simulation.nodes": 3, "publish.density": 0.2})
    nodes = prepare(config, tmp_path)
    written = [load(NodeConfig, tmp_path / "nodes" / node.node.name / "node.toml", {}) for node in nodes]
    assert written == nodes
    addresses = {node.node.listen for node in nodes}
    assert len(addresses) == 3
    for node in nodes:
        assert {*node.membership.peers, node.node.listen} == addresses
        assert node.membership.expect == 3


def test_an_earlier_simulation_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "nodes" / "n0009"
    other = tmp_path / "nodes" / "notes"
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / "node.toml").write_text("")
    prepare(load(SimulationConfig, None, {"simulation.nodes": 1}), tmp_path)
    assert sorted(p.name for p in (tmp_path / "nodes").iterdir()) == ["n0000", "notes"]


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
        # The pipe ends when the last process that holds it has: the child.
        assert parent.stdout.read() == ""
