from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peermerge.coordinator.config import CoordinatorConfig, read
from peermerge.coordinator.server import start
from peermerge.protocol.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert read(None, {"listen": None}, {}) == CoordinatorConfig()
    assert CoordinatorConfig().patience_s == 6.0


def test_flags_lie_over_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'listen = "127.0.0.1:1"\nheartbeat_s = 1\nexpire_s = 9\n[suggest.topology]\nname = "ring"\n'
    )
    config = read(path, {"listen": "127.0.0.1:2"}, {"publish.density": 0.05})
    assert (config.listen, config.heartbeat_s, config.patience_s) == ("127.0.0.1:2", 1, 9)
    assert config.suggest == {"topology.name": "ring", "publish.density": 0.05}


def test_suggestions_in_a_file_may_be_tables_or_dotted_keys(tmp_path: Path) -> None:
    path = written(tmp_path, '[suggest]\n"schedule.rounds" = 9\n[suggest.topology]\nparameters = { degree = 4 }\n')
    assert read(path, {}, {}).suggest == {"schedule.rounds": 9, "topology.parameters": {"degree": 4}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("heartbeat = 1", "unknown key 'heartbeat'; did you mean 'heartbeat_s'?"),
        ("heartbeat_s = 0", "heartbeat_s: Input should be greater than or equal to 0.2"),
        ("heartbeat_s = 2\nexpire_s = 1", "expire_s must be longer than heartbeat_s"),
        ("suggest = 1", "suggest: Input should be a valid dictionary"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(written(tmp_path, text), {}, {})
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "suggest",
    [
        {"task.name": "module:factory"},
        {"node.data_dir": "/"},
        {"topology.name": 5},
        {"schedule.rounds": True},
        {"schedule.rounds": 2**60},
        {"publish.density": float("nan")},
        {"topology.parameters": {"x": "y" * 5000}},
    ],
)
def test_what_no_node_would_take_is_not_suggested(tmp_path: Path, suggest: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be suggested"):
        start(CoordinatorConfig(data_dir=str(tmp_path), suggest=suggest))


@pytest.mark.parametrize("key", ["listen", "metrics"])
def test_plain_text_beyond_this_machine_wants_permission(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        start(CoordinatorConfig.model_validate({"data_dir": str(tmp_path), key: "0.0.0.0:0"}))
