"""Our methods against recorded outputs of other libraries; record.py says how they were made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .adapter import merge_case
from .record import RECORDED, flat, opened

INDEX: list[dict[str, Any]] = json.loads((RECORDED / "index.json").read_text())


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Tensor]]:
    return {kind: load_file(RECORDED / f"{kind}.safetensors") for kind in ("inputs", "outputs", "ambiguous")}


@pytest.mark.parametrize("method", sorted({case["method"] for case in INDEX}))
def test_every_recorded_case_of_mergekit_comes_out_the_same(
    recorded: dict[str, dict[str, Tensor]], method: str
) -> None:
    cases = [case for case in INDEX if case["method"] == method]
    failed = []
    for case in cases:
        where = f"{case['fixture']}.{case['dtype']}"
        models = {name: opened(recorded["inputs"][f"{where}/{name}"]) for name in ("base", "ft0", "ft1", "ft2", "ft3")}
        found = merge_case(case, models.pop("base"), models, {})
        assert found is not None, case["id"]
        merged = flat(found)
        expected = recorded["outputs"][case["key"]]
        assert merged.dtype == expected.dtype
        near = (merged.double() - expected.double()).abs() <= 1e-6 + 1e-5 * expected.double().abs()
        doubtful = recorded["ambiguous"].get(case["key"], torch.zeros(len(expected), dtype=torch.bool))
        assert doubtful.float().mean() < 0.9, case["id"]
        if not bool((near | doubtful).all()):
            failed.append((case["id"], int((~near & ~doubtful).sum())))
    assert not failed, f"{len(failed)} of {len(cases)}: {failed[:5]}"


def test_the_adapter_can_be_loaded_by_its_path_alone() -> None:
    program = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('adapter', sys.argv[1]);"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(len(m.RULES))"
    )
    path = Path(__file__).with_name("adapter.py")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50
