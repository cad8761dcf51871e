"""Turn a data directory into a plain safetensors file: the node's own weights, or the mean with its replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..protocol.errors import ConfigError, DataDirError, EnvelopeError
from ..protocol.manifest import manifest_of
from . import checkpoint as checkpoints
from .config import NodeConfig, parse
from .log import PublishedLog
from .params import Parameters, load_tensors, save_tensors
from .recovery import resume
from .replicas import Replicas
from .state import State, floors, values
from .storage import DiskStorage


def export(data_dir: Path, out: Path, *, mean: bool = False) -> dict[str, object]:
    """Write the weights that a data directory holds; return what was written, for people and scripts.

    The file has every tensor of the model's state dict. Works beside a running node, whose files are either
    replaced whole or, as replicas, verified after they were read. Raises DataDirError if the directory is not a
    node's, ConfigError if there is no replica to take the mean with or the file cannot be written.
    """
    for name in ("config.json", "manifest.json", "base.safetensors"):
        if not (data_dir / name).exists():
            raise DataDirError(f"{data_dir}: no {name} here; give the data directory of a node that has started")
    config = parse(NodeConfig, _json(data_dir / "config.json"), str(data_dir / "config.json"))
    full = load_tensors(data_dir / "base.safetensors")
    params, ties = _parameters(data_dir, full)
    storage = DiskStorage(data_dir, lock=False)
    grid = floors(params.manifest, params.base, config.log.grid_bits)
    state = State(params.manifest, grid)
    log = PublishedLog(storage, state, config.node.name, params.base_digest, config.log.retention)
    saved, _ = checkpoints.load(storage)
    own, round_ = resume(saved, log)
    contributors = [config.node.name]
    if mean:
        states = _replicas(data_dir, params, log)
        contributors += sorted(states)
        total = own.double() + sum(values(s).double() for s in states.values())
        own = (total / len(contributors)).float()
    params.tau.copy_(own)
    params.write()
    full |= params.state_dict()
    save_tensors(out, full | {name: full[owner] for name, owner in ties.items() if name in full})
    return {"file": str(out), "round": round_, "contributors": contributors, "parameters": params.manifest.parameters}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataDirError(f"{path}: damaged or unreadable: {error}") from error


def _parameters(data_dir: Path, full: dict[str, torch.Tensor]) -> tuple[Parameters, dict[str, str]]:
    """Return what takes part, at the base, and the further names of tied tensors."""
    data = _json(data_dir / "manifest.json")
    try:
        manifest = manifest_of((n, tuple(shape), d, full_) for n, shape, d, full_ in data["tensors"])
        tensors = {spec.name: full[spec.name].clone() for spec in manifest.tensors}
        return Parameters(tensors, manifest, torch.device("cpu")), dict(data["ties"])
    except (KeyError, TypeError, ValueError, EnvelopeError) as error:
        raise DataDirError(f"{data_dir}: manifest.json and base.safetensors do not fit together: {error}") from error


def _replicas(data_dir: Path, params: Parameters, log: PublishedLog) -> dict[str, State]:
    replicas = Replicas(params.manifest, log.state.floors, params.base_digest, data_dir / "replicas", mapped=False)
    names = [path.stem for path in sorted((data_dir / "replicas").glob("*.mark"))]
    found = {name: replica.state for name in names if (replica := replicas.get(name)) is not None}
    if not found:
        raise ConfigError(f"{data_dir}: holds no replica of a neighbour; leave out --mean")
    return found
