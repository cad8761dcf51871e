import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peermerge.node import checkpoint as checkpoints
from peermerge.node.checkpoint import Checkpoint
from peermerge.node.config import NodeConfig, load
from peermerge.node.export import export
from peermerge.node.log import PublishedLog
from peermerge.node.params import Parameters, describe, live_tensors, save_tensors, ties
from peermerge.node.replicas import Replicas
from peermerge.node.state import State, floors, values
from peermerge.node.storage import DiskStorage, MemoryStorage
from peermerge.protocol.errors import ConfigError, DataDirError

from .worlds import Tied, header, random_delta


@dataclass
class Home:
    """A data directory as a node leaves it, and the model as the node held it."""

    root: Path
    model: Tied
    params: Parameters
    replicas: dict[str, State]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root, model, rng = tmp_path / "data", Tied(), np.random.default_rng(0)
    config = load(NodeConfig, None, {"node.name": "alice", "node.data_dir": str(root)})
    tensors = live_tensors(model)
    params = Parameters(tensors, describe(model, tensors), torch.device("cpu"))
    storage = DiskStorage(root)
    storage.write("config.json", json.dumps(config.model_dump(mode="json")).encode())
    specs = [[s.name, list(s.shape), s.dtype, s.full] for s in params.manifest.tensors]
    storage.write("manifest.json", json.dumps({"tensors": specs, "ties": ties(model)}).encode())
    save_tensors(root / "base.safetensors", model.state_dict())
    grid = floors(params.manifest, params.base, config.log.grid_bits)
    replicas = Replicas(params.manifest, grid, params.base_digest, root / "replicas")
    states: dict[str, State] = {}
    for sender in ("alice", "bob", "carol"):
        own = storage if sender == "alice" else MemoryStorage()
        log = PublishedLog(own, State(params.manifest, grid), sender, params.base_digest, 64)
        for round_ in range(3):
            entry = log.append(random_delta(rng, params.manifest), header(round_))
            if sender != "alice":
                replicas.apply(sender, entry.header, entry.frame)
        states[sender] = log.state
    replicas.flush()
    own_state = states.pop("alice")
    for _, place in params.manifest.slices():
        params.tau[place] = values(own_state)[place] + 0.01
    params.write()
    params.collect()
    checkpoints.save(storage, Checkpoint(3, 1, 3, params.tau, {}, {}, {}))
    storage.close()
    return Home(root, model, params, states)


def test_own_weights_are_the_live_weights_tied_and_frozen_ones_included(home: Home, tmp_path: Path) -> None:
    told = export(home.root, tmp_path / "own.safetensors")
    written = load_file(tmp_path / "own.safetensors")
    live = home.model.state_dict()
    assert written.keys() == live.keys()
    for name, tensor in live.items():
        assert torch.equal(written[name], tensor), name
    assert torch.equal(written["head.weight"], written["embed.weight"])
    Tied().load_state_dict(written)
    assert told == {
        "file": str(tmp_path / "own.safetensors"),
        "round": 3,
        "contributors": ["alice"],
        "parameters": home.params.manifest.parameters,
    }


def test_the_mean_is_that_of_the_own_weights_and_every_replica(home: Home, tmp_path: Path) -> None:
    told = export(home.root, tmp_path / "mean.safetensors", mean=True)
    assert told["contributors"] == ["alice", "bob", "carol"]
    written = load_file(tmp_path / "mean.safetensors")
    total = home.params.tau + sum(values(state) for state in home.replicas.values())
    for spec, place in home.params.manifest.slices():
        expected = (home.params.base[place] + total[place] / 3).view(spec.shape)
        expected = expected.clamp_min(1e-7) if spec.name.endswith("running_var") else expected
        torch.testing.assert_close(written[spec.name], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(written["frozen.weight"], home.model.frozen.weight)


def test_the_mean_needs_a_replica_that_verifies(home: Home, tmp_path: Path) -> None:
    (home.root / "replicas" / "bob.mark").unlink()
    assert export(home.root, tmp_path / "mean", mean=True)["contributors"] == ["alice", "carol"]
    (home.root / "replicas" / "carol.levels").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="leave out --mean"):
        export(home.root, tmp_path / "mean", mean=True)


def test_export_works_beside_a_running_node_and_touches_nothing(home: Home, tmp_path: Path) -> None:
    running = DiskStorage(home.root)
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    export(home.root, tmp_path / "mean", mean=True)
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before
    running.close()


def test_a_directory_that_is_no_nodes_or_damaged_is_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"no config\.json here"):
        export(tmp_path, tmp_path / "out")
    path = home.root / "manifest.json"
    whole = path.read_text()
    for text in ("{", "[]", '{"tensors": [[1]], "ties": {}}', whole.replace("embed.weight", "other"), whole[:-20]):
        path.write_text(text)
        with pytest.raises(DataDirError, match=r"manifest\.json"):
            export(home.root, tmp_path / "out")
    path.write_text(whole)
    (home.root / "config.json").write_text("{")
    with pytest.raises(DataDirError, match=r"config\.json"):
        export(home.root, tmp_path / "out")


def test_a_file_that_cannot_be_written_is_the_users_to_mend(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        export(home.root, tmp_path / "missing" / "out")
