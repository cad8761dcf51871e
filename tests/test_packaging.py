"""The repository as a package: all is listed, nothing is imported by folder name, nothing runs a peer's bytes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("coordinator", "node", "protocol")
CODE = (*PACKAGES, ".ci", "benchmarks", "deploy", "docs", "examples", "tests")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

UNSAFE_MODULES = {"_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
UNSAFE_BUILTINS = {"eval", "exec"}
UNSAFE_CALLS = {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def python_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def dotted(node: ast.expr) -> str:
    """Write a chain of names as in the source: `torch.load`; anything else is an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield what absolute imports name: `import a.b` gives `a.b`, `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_unsafe(call: ast.Call) -> bool:
    name = dotted(call.func)
    options = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
    if name == "torch.load":
        return options.get("weights_only") is not True
    return name in UNSAFE_BUILTINS | UNSAFE_CALLS or options.get("allow_pickle", False) is not False


def unsafe_parts(source: str) -> list[str]:
    """List what could run code that somebody else wrote into data."""
    tree = ast.parse(source)
    imports = [name for name in imported_names(tree) if name.split(".")[0] in UNSAFE_MODULES]
    renamed = [name for name in imported_names(tree) if name in UNSAFE_CALLS | {"torch.load"}]
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and is_unsafe(node)]
    return imports + renamed + calls


def test_every_package_on_disk_is_listed_in_pyproject() -> None:
    inits = [path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    on_disk = {"peermerge." + ".".join(folder.relative_to(ROOT).parts) for folder in inits}
    assert on_disk == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_every_package_is_mapped_to_its_own_folder() -> None:
    expected = {
        name: name.removeprefix("peermerge.").replace(".", "/") for name in PYPROJECT["tool"]["setuptools"]["packages"]
    }
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == expected


def test_folders_with_code_are_packages() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_installed_version_is_the_one_in_pyproject() -> None:
    assert version("peermerge") == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_ships_its_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_nothing_imports_by_bare_folder_name() -> None:
    # With the checkout as working directory it would work, and give a second copy of every class.
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files()
        for name in imported_names(ast.parse(path.read_text()))
        if name.split(".")[0] in PACKAGES
    ]
    assert found == []


def test_no_code_could_run_what_a_peer_sent() -> None:
    found = {str(path.relative_to(ROOT)): unsafe_parts(path.read_text()) for path in python_files()}
    assert {name: parts for name, parts in found.items() if parts} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import torch.nn, shelve",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_search_finds_planted_danger(source: str) -> None:
    assert unsafe_parts(source) != []


@pytest.mark.parametrize(
    "source", ["model.eval()", "torch.load(path, weights_only=True)", "yaml.safe_load(text)", "import json"]
)
def test_the_search_leaves_harmless_code_alone(source: str) -> None:
    assert unsafe_parts(source) == []
