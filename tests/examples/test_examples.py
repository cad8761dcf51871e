"""Examples and the README's programs run as a user would run them: copied elsewhere, unchanged but for ports."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from ..docs.pages import ROOT, blocks, commands
from ..integration.daemons import NodeProcess, end, eventually, free_ports

EXAMPLES = ROOT / "examples"
PEERMERGE = Path(sys.executable).with_name("peermerge")
DEADLINE_S = 200
pytestmark = pytest.mark.timeout(240)


def elsewhere(program: str, folder: Path, ports: tuple[int, ...] = ()) -> str:
    """Return a program with its ports replaced by free ones: somebody else may use those."""
    for written, free in zip(ports, free_ports(len(ports)), strict=True):
        program = program.replace(f":{written}", f":{free}")
    folder.mkdir(exist_ok=True)
    return program


def run(*command: str, folder: Path) -> str:
    """Run a command in a folder to its end; return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_task_is_the_one_in_examples() -> None:
    assert blocks(ROOT / "README.md", "python")[1] == (EXAMPLES / "mytask.py").read_text()


@pytest.mark.slow
def test_a_loop_from_the_readme_runs_in_two_terminals(tmp_path: Path) -> None:
    program = elsewhere(blocks(ROOT / "README.md", "python")[0], tmp_path, (50051, 50052))
    (tmp_path / "train.py").write_text(program)
    terminals = [
        subprocess.Popen([sys.executable, "train.py", name], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    try:
        said = [terminal.communicate(timeout=DEADLINE_S)[0] for terminal in terminals]
    finally:
        for terminal in terminals:
            terminal.kill()
    assert [terminal.returncode for terminal in terminals] == [0, 0]
    for text in said:
        last = text.splitlines()[-1]
        assert last.startswith("30 ")
        accuracy = re.search(r"0\.\d+", last)
        assert accuracy is not None
        assert float(accuracy[0]) > 0.7, "each alone has seen five of ten digits"


@pytest.mark.slow
def test_a_task_from_the_readme_runs_with_its_commands(tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(blocks(ROOT / "README.md", "python")[1])
    simulate, start = (line for line in commands(ROOT / "README.md") if "mytask:factory" in line)
    run(str(PEERMERGE), *shlex.split(simulate)[1:], folder=tmp_path)
    summary = json.loads((tmp_path / "peermerge-out" / "summary.json").read_text())
    assert summary["accuracy_nodes_mean"] > summary["accuracy_alone_mean"] + 0.03
    run(str(PEERMERGE), *shlex.split(start)[1:], folder=tmp_path)
    result = json.loads((tmp_path / "peermerge-data" / "result.json").read_text())
    assert result["finished_rounds"] == 30
    run(str(PEERMERGE), "export", "peermerge-data", "-o", "model.safetensors", folder=tmp_path)
    assert load_file(tmp_path / "model.safetensors")["0.weight"].shape == (64, 5)


@pytest.mark.slow
def test_the_wrapped_loop_demonstrates_itself(tmp_path: Path) -> None:
    program = elsewhere((EXAMPLES / "wrap_your_loop.py").read_text(), tmp_path, (50061, 50062))
    (tmp_path / "wrap_your_loop.py").write_text(program)
    said = run(sys.executable, "wrap_your_loop.py", "--self-demo", folder=tmp_path)
    shares = [float(share) for share in re.findall(r"([\d.]+)% of all ten digits", said)]
    assert len(shares) == 2
    assert min(shares) > 70


@pytest.mark.parametrize("example", ["query_status.py", "wrap_your_loop.py"])
def test_an_example_without_its_arguments_says_how_to_call_it(example: str) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / example)], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {example}")


def test_the_status_query_asks_a_running_node(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "query_status.py", tmp_path)
    (port,) = free_ports(1)
    node = NodeProcess(tmp_path, "asked", f"127.0.0.1:{port}", {"schedule.rounds": 1, "node.stay": True})
    try:
        node.start()
        eventually(lambda: node.events("finished"), "it finishes", 60)
        said = run(sys.executable, "query_status.py", node.address, folder=tmp_path)
    finally:
        end([node])
    assert said.startswith("asked: round 1 of 1, finished, {'accuracy':")
