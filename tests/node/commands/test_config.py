from __future__ import annotations

from pathlib import Path

import pytest

from .command_line import Outcome, run


def check(folder: Path, text: str, *options: str) -> Outcome:
    file = folder / "some.toml"
    file.write_text(text)
    return run("config", "check", str(file), *options)


def test_a_nodes_file_is_found_good(tmp_path: Path) -> None:
    done = check(tmp_path, '[node]\nname = "a"\n[merge]\nmethod = "ties"')
    assert done.code == 0
    assert "node 'a': digits, complete, ties" in done.out


def test_a_table_simulation_makes_it_a_simulations(tmp_path: Path) -> None:
    assert "a simulation" in check(tmp_path, "[simulation]\nnodes = 3").out
    assert check(tmp_path, '[simulation]\nnodes = 3\n[node]\nname = "a"').code == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[schedule]\nround = 3", "did you mean 'rounds'?"),
        ("[schedule", "not valid TOML"),
        ('[task]\nname = "digit"', "did you mean 'digits'?"),
        ("[task]\nindex = 3", "shard index 3 of 1"),
        ('[topology]\nname = "rng"', "did you mean 'ring'?"),
        ('[merge]\nmethod = "tis"', "did you mean 'ties'?"),
        ('[schedule]\nrounds = 0\nfinal = "all"', "give a number of rounds"),
        ('[node]\nadvertise = "here"', "node.advertise: address 'here'"),
        ('[membership]\npeers = ["there"]', "membership.peers: address 'there'"),
        ('[node]\ninsecure = true\n[membership]\ncoordinator = "there"', "membership.coordinator: address 'there'"),
        ('[node]\nlisten = "0.0.0.0:50051"', "--insecure"),
        ('[node]\nbase = "sha256:12"', "node.base: write sha256: and the 64 hexadecimal digits"),
        ('[membership]\nmqtt = "broker:1883"', "membership.mqtt: write mqtt://HOST"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_the_cure(tmp_path: Path, text: str, hint: str) -> None:
    done = check(tmp_path, text)
    assert done.code == 2
    assert "some.toml" in done.err
    assert hint in done.err


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    done = check(tmp_path, '[task]\nname = "digit"\n[topology]\nname = "rng"')
    assert done.err.count("did you mean") == 2


def test_keys_can_be_tried_out_from_the_command_line(tmp_path: Path) -> None:
    assert check(tmp_path, "", "--set", "topology.name=ring").code == 0
    assert check(tmp_path, "", "--set", "topology.name=rng").code == 2


def test_a_task_of_the_user_is_not_loaded(tmp_path: Path) -> None:
    assert check(tmp_path, '[task]\nname = "nowhere_at_all:task"').code == 0


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "no such file" in run("config", "check", str(tmp_path / "absent.toml")).err
