"""Every example in a docstring works (pytest --doctest-modules cannot import a package mapped to another folder)."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

PACKAGES = ("peermerge.coordinator", "peermerge.node", "peermerge.protocol")


def module_names(package: str) -> list[str]:
    path = import_module(package).__path__
    found = [info.name for info in pkgutil.walk_packages(path, prefix=f"{package}.")]
    return [package, *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", [name for package in PACKAGES for name in module_names(package)])
def test_examples_in_docstrings_work(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0
