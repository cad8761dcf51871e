from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peermerge.node.commands.plan import count, counted, members
from peermerge.node.config import NodeConfig, SimulationConfig, parse
from peermerge.protocol.errors import ConfigError

from .command_line import run


def planned(folder: Path, text: str, *options: str) -> dict[str, Any]:
    file = folder / "some.toml"
    file.write_text(text)
    done = run("plan", str(file), "--json", *options)
    assert (done.code, done.err) == (0, "")
    result: dict[str, Any] = json.loads(done.out)
    return result


def test_the_model_of_the_task_is_counted(tmp_path: Path) -> None:
    model = planned(tmp_path, '[task]\nname = "digits"')["model"]
    assert model["parameters"] > model["full"] > 0
    assert model["weight_bytes"] >= 4 * model["parameters"], "counters do not travel but take room"


def test_excluded_tensors_cost_nothing_on_the_wire(tmp_path: Path) -> None:
    everything = planned(tmp_path, "")["model"]
    without = planned(tmp_path, 'exclude = ["*bias*"]')["model"]
    assert without["parameters"] < everything["parameters"]
    assert without["weight_bytes"] == everything["weight_bytes"], "they are trained all the same"


def test_a_number_of_parameters_spares_loading_the_task(tmp_path: Path) -> None:
    result = planned(tmp_path, '[task]\nname = "nowhere_at_all:task"', "--parameters", "7e9", "--nodes", "4")
    assert result["model"]["parameters"] == 7_000_000_000
    assert result["network"] == {"nodes": 4, "neighbours": 3, "partners": 3}


def test_a_simulation_in_memory_shares_one_process(tmp_path: Path) -> None:
    many = planned(tmp_path, "[simulation]\nnodes = 64", "--parameters", "1000000")
    real = planned(tmp_path, '[simulation]\nnodes = 64\nnetwork = "grpc"', "--parameters", "1000000")
    assert many["total"]["disk"] == 0
    assert many["total"]["memory"] < real["total"]["memory"] == 64 * real["node"]["memory_sum"]


def test_people_get_a_table(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("")
    done = run("plan", str(file), "--nodes", "3", "--parameters", "1_000_000")
    assert done.code == 0
    for part in ("1,000,000 parameters", "3 nodes, 2 neighbours", "less than float32", "checkpoints"):
        assert part in done.out


def test_a_task_that_does_not_load_names_the_way_around(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[task]\nname = "nowhere_at_all:task"')
    done = run("plan", str(file))
    assert done.code == 2
    assert "--parameters" in done.err


@pytest.mark.parametrize("text", ["many", "0", "-5", "inf", "nan"])
def test_parameters_must_be_a_number(text: str) -> None:
    with pytest.raises(ConfigError, match="--parameters"):
        counted(text)


@pytest.mark.parametrize(
    ("data", "nodes"),
    [
        ({}, 1),
        ({"membership": {"expect": 5}}, 5),
        ({"membership": {"peers": ["a:1", "b:1"]}}, 3),
        ({"task": {"count": 8}}, 8),
    ],
)
def test_a_nodes_file_tells_the_number_of_nodes(data: dict[str, Any], nodes: int) -> None:
    assert count(parse(NodeConfig, data, "test")) == nodes


def test_explicit_edges_name_the_members() -> None:
    config = SimulationConfig.model_validate(
        {"topology": {"name": "edges", "parameters": {"pairs": [["b", "a"], ["b", "c"]]}}}
    )
    assert members(config, 4) == ["a", "b", "c", "n0000"]
    assert members(config, 2) == ["a", "b", "c"]
