import traceback
from pathlib import Path

import pytest

from peermerge.node.config import (
    NodeConfig,
    RunConfig,
    SimulationConfig,
    differences,
    load,
    parse,
    parse_value,
    put,
)
from peermerge.protocol.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert load(NodeConfig, None, {}) == NodeConfig()
    assert load(SimulationConfig, None, {}).simulation.nodes == 5


def test_a_file_is_read_and_overrides_lie_over_it(tmp_path: Path) -> None:
    path = written(tmp_path, '[node]\nname = "alice"\n[schedule]\nrounds = 7\nevery = 2\n[task.arguments]\nlr = 0.1\n')
    overrides = {"schedule.rounds": 9, "task.arguments.batch": 4, "run": "second"}
    config = load(NodeConfig, path, overrides)
    assert (config.node.name, config.schedule.rounds, config.schedule.every) == ("alice", 9, 2)
    assert config.task.arguments == {"lr": 0.1, "batch": 4}
    assert config.run == "second"


def test_what_is_loaded_survives_json_and_stays_frozen() -> None:
    config = load(NodeConfig, None, {"include": ["a*"], "membership.peers": ["h:1"], "publish.bits": 1})
    assert parse(NodeConfig, config.model_dump(mode="json"), "config.json") == config
    with pytest.raises(ValueError, match="frozen"):
        config.run = "other"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("schedule.round", "unknown key 'schedule.round'; did you mean 'rounds'?"),
        ("schedul.rounds", "unknown key 'schedul'; did you mean 'schedule'?"),
        ("publish.densty", "did you mean 'density'?"),
        ("node.xyzzy", "known here: advertise, bandwidth_bytes_s, base"),
        ("node.listen.port", "node.listen: Input should be a valid string"),
        ("task.arguments", "task.arguments: Input should be a valid dictionary"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(NodeConfig, written(tmp_path, ""), {key: 3})
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'node.toml'}: ")


def test_an_unknown_key_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml: unknown key 'guard\.norm_gat'; did you mean 'norm_gate'\?"):
        load(RunConfig, written(tmp_path, "[guard]\nnorm_gat = 3\n"), {})
    with pytest.raises(ConfigError, match="the command line: unknown key 'node'"):
        load(RunConfig, None, {"node.name": "a"})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("schedule.rounds", "many", "schedule.rounds: Input should be a valid integer"),
        ("schedule.rounds", -1, "schedule.rounds: Input should be greater than or equal to 0"),
        ("schedule.merge", "always", "schedule.merge: Input should be 'every', 'none' or 'final'"),
        ("publish.density", 0, "publish.density: Input should be greater than 0"),
        ("publish.density", float("nan"), "publish.density: "),
        ("round.ceiling_s", float("inf"), "round.ceiling_s: Input should be a finite number"),
        ("node.name", "Alice!", "node.name: String should match pattern"),
        ("node.name", "a\n", "node.name: String should match pattern"),
        ("membership.peers", "h:1", "membership.peers: Input should be a valid tuple"),
        ("membership.peers", [1], "membership.peers.0: Input should be a valid string"),
        ("task", 3, "task: Input should be a valid dictionary"),
        ("node.base", "sha256:12", "node.base: write sha256: and the 64 hexadecimal digits"),
        ("membership.mqtt", "broker:1883", "membership.mqtt: write mqtt://HOST"),
    ],
)
def test_a_wrong_value_names_key_and_reason(key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(NodeConfig, None, {key: value})
    assert f"the command line: {says}" in str(caught.value)


def test_no_error_repeats_the_password_of_a_broker_not_even_in_its_traceback() -> None:
    password = "x" * 9
    with pytest.raises(ConfigError) as caught:
        load(NodeConfig, None, {"membership.mqtt": f"mqtt://ann:{password}@broker/topic"})
    assert password not in "".join(traceback.format_exception(caught.value))


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(NodeConfig, None, {"schedule.rounds": -1, "log.retention": 0, "lgo": 1})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("budgets", "names"),
    [
        ({"density": 0.1, "bits": 1.0}, "density, bits"),
        ({"bits": 1.0, "relative_error": 0.1}, "bits, relative_error"),
        ({"density": 0.1, "lossless": True}, "density and lossless"),
    ],
)
def test_two_budgets_contradict_each_other(budgets: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=f"publish: give one budget, not {names}"):
        load(RunConfig, None, {f"publish.{key}": value for key, value in budgets.items()})


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(RunConfig, tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        load(RunConfig, written(tmp_path, "seed = = 3"), {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(RunConfig, tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b'run = "\xff"')
    with pytest.raises(ConfigError, match="cannot be read"):
        load(RunConfig, tmp_path / "latin.toml", {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ('["a", "b"]', ["a", "b"]),
        ('"3"', "3"),
        ("dirichlet:0.1", "dirichlet:0.1"),
        ("127.0.0.1:7000", "127.0.0.1:7000"),
        ("", ""),
    ],
)
def test_values_of_the_command_line_are_toml_or_plain_text(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_dotted_keys_make_tables_but_never_pass_through_values() -> None:
    data: dict[str, object] = {"a": {"b": 1}}
    put(data, "a.c.d", 2)
    assert data == {"a": {"b": 1, "c": {"d": 2}}}
    with pytest.raises(ConfigError, match=r"--set a\.b\.c: b is not a table"):
        put(data, "a.b.c", 2)


def test_differences_name_keys_and_both_values() -> None:
    old = NodeConfig().model_dump(mode="json")
    new = load(NodeConfig, None, {"schedule.rounds": 31, "publish.bits": 1}).model_dump(mode="json")
    assert differences(old, old) == []
    assert differences(old, new) == ["publish.bits: was not set, is 1.0", "schedule.rounds: was 30, is 31"]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: was 1, is not set", "b: was not set, is {'c': 2}"]
