"""What must start quickly starts without torch. Who imports whom is .importlinter's business."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_EACH = """
import importlib, pkgutil, sys

def modules(name):
    found = importlib.import_module(name)
    yield name
    for info in pkgutil.walk_packages(getattr(found, "__path__", []), prefix=name + "."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
            yield info.name

for name in modules(sys.argv[1]):
    if "torch" in sys.modules:
        sys.exit(f"importing {name} loads torch")
"""


@pytest.mark.parametrize("name", ["peermerge.coordinator", "peermerge.protocol", "peermerge.node.cli"])
def test_starts_without_torch(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
