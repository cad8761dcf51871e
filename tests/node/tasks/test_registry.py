"""A task is found by name or by module:factory, and every mistake is named with its cure."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peermerge.node.tasks import TASKS, Shard, Task, load_task
from peermerge.node.tasks.requires import require
from peermerge.protocol.errors import ConfigError

OWN_TASK = """
class Own:
    def __init__(self, shard, size):
        self.shard, self.size = shard, size
    def model(self): ...
    def train(self, model, steps, device): ...
    def evaluate(self, model, device): ...

def make(shard, *, size=3):
    return Own(shard, size)

def nothing(shard):
    return 7

not_callable = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory of a user, off the import path; what a test imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    yield tmp_path
    for module in ("own_task", "broken_task"):
        sys.modules.pop(module, None)


def test_importing_the_package_imports_neither_torch_nor_data() -> None:
    program = (
        "import sys, peermerge.node.tasks;"
        "heavy = {'torch', 'numpy', 'sklearn', 'mlxtend'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_file_in_the_current_directory_is_found(folder: Path) -> None:
    task = load_task("own_task:make", Shard(1, 2, 3), {"size": 5})
    assert isinstance(task, Task)
    assert vars(task) == {"shard": Shard(1, 2, 3), "size": 5}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'digit' \(did you mean 'digits'\?\).*module:factory"):
        load_task("digit", Shard(), {})


@pytest.mark.parametrize("name", ["own_task:", ":make", "own task:make", "../own_task:make", "own_task.:make"])
def test_a_malformed_target_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="module:factory"):
        load_task(name, Shard(), {})


def test_a_missing_module_is_named() -> None:
    with pytest.raises(ConfigError, match="module 'no_such_module_here' does not import: No module named"):
        load_task("no_such_module_here:make", Shard(), {})


@pytest.mark.parametrize(
    ("text", "reason"), [("import no_such_package_here", "no_such_package_here"), ("def f(:", "invalid syntax")]
)
def test_a_module_that_does_not_import_says_why(folder: Path, text: str, reason: str) -> None:
    (folder / "broken_task.py").write_text(text)
    with pytest.raises(ConfigError, match=f"module 'broken_task' does not import: .*{reason}"):
        load_task("broken_task:make", Shard(), {})


def test_a_missing_factory_suggests_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no factory 'maek' \(did you mean 'make'\?\)"):
        load_task("own_task:maek", Shard(), {})
    with pytest.raises(ConfigError, match="has no factory 'not_callable'"):
        load_task("own_task:not_callable", Shard(), {})


def test_a_factory_that_returns_no_task_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a int is no task; it needs model, train and evaluate"):
        load_task("own_task:nothing", Shard(), {})


def test_a_wrong_argument_is_named_with_those_that_exist(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sise' \(did you mean 'size'\?\); arguments: size"):
        load_task("own_task:make", Shard(), {"sise": 5})
    with pytest.raises(ConfigError, match="multiple values for argument 'shard'"):
        load_task("own_task:make", Shard(), {"shard": 5})
    with pytest.raises(ConfigError, match=r"'batchsize'.*; arguments: partition, batch, lr, optimizer"):
        load_task("digits", Shard(), {"batchsize": 5})


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": 1},
        {"batch": 8.0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": "fast"},
        {"optimizer": "lion"},
        {"momentum": 1.0},
        {"test_size": 1_797},
        {"test_size": True},
        {"partition": "even"},
        {"partition": 3},
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        load_task("digits", Shard(), arguments)


@pytest.mark.parametrize("where", [(-1, 2, 0), (2, 2, 0), (0, 0, 0), (0, 1, -1)])
def test_an_impossible_shard_is_refused(where: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError):
        Shard(*where)


def test_a_missing_package_comes_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_package_here .*pip install something"):
        require("no_such_package_here", "pip install something")


@pytest.mark.parametrize("name", TASKS)
def test_every_built_in_target_is_a_factory_of_this_package(name: str) -> None:
    module, _, factory = TASKS[name].partition(":")
    assert module.startswith("peermerge.node.tasks.")
    assert callable(getattr(pytest.importorskip(module), factory))
