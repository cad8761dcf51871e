"""Turn a data directory into a plain safetensors file: the node's own weights, or the mean with its replicas."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..protocol.errors import ConfigError, DataDirError
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

    The file has every tensor of the model's state dict. Works beside a running node: its files are replaced
    whole, never rewritten in place. Raises DataDirError if the directory is not a node's.
    """
    for name in ("config.json", "manifest.json", "base.safetensors"):
        if not (data_dir / name).exists():
            raise DataDirError(f"{data_dir}: no {name} here; give the data directory of a node that has started")
    config = parse(NodeConfig, json.loads((data_dir / "config.json").read_text()), str(data_dir / "config.json"))
    manifest = manifest_of(
        (n, tuple(shape), d, full) for n, shape, d, full in json.loads((data_dir / "manifest.json").read_text())
    )
    full = load_tensors(data_dir / "base.safetensors")
    params = Parameters({spec.name: full[spec.name] for spec in manifest.tensors}, manifest, torch.device("cpu"))
    log = _log(data_dir, config, params)
    saved, _ = checkpoints.load(DiskStorage(data_dir, lock=False))
    own, round_ = resume(saved, log)
    contributors = [config.node.name]
    if mean:
        states = _replicas(data_dir, config, params, log)
        contributors += sorted(states)
        total = own.double() + sum(values(s).double() for s in states.values())
        own = (total / len(contributors)).float()
    params.tau.copy_(own)
    params.write()
    save_tensors(out, full | params.state_dict())
    return {"file": str(out), "round": round_, "contributors": contributors, "parameters": manifest.parameters}


def _log(data_dir: Path, config: NodeConfig, params: Parameters) -> PublishedLog:
    storage = DiskStorage(data_dir, lock=False)
    grid = floors(params.manifest, params.base, config.log.grid_bits)
    state = State(params.manifest, grid)
    return PublishedLog(storage, state, config.node.name, params.base_digest, config.log.retention)


def _replicas(data_dir: Path, config: NodeConfig, params: Parameters, log: PublishedLog) -> dict[str, State]:
    replicas = Replicas(params.manifest, log.state.floors, params.base_digest, data_dir / "replicas")
    names = [path.stem for path in sorted((data_dir / "replicas").glob("*.mark"))]
    found = {name: replica.state for name in names if (replica := replicas.get(name)) is not None}
    if not found:
        raise ConfigError(f"{data_dir}: holds no replica of a neighbour; leave out --mean")
    return found
