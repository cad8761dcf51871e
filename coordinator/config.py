"""What the user of a coordinator chooses: flags, or a TOML file below them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from ..protocol.settings import STRICT, load

HEARTBEATS = 3.0
"""Who misses so many heartbeats leaves the view, unless `expire_s` says otherwise."""


class CoordinatorConfig(BaseModel):
    """coordinator.toml."""

    model_config = STRICT

    listen: str = "127.0.0.1:50050"
    """HOST:PORT to serve nodes on; port 0 takes any free one."""
    data_dir: str = "peermerge-coordinator"
    """Where the roster is kept; one process at a time."""
    metrics: str | None = None
    """HOST:PORT of a Prometheus page."""
    insecure: bool = False
    """Allow plain text beyond the loopback interface."""
    heartbeat_s: Annotated[float, Field(ge=0.2, le=60)] = 2.0
    """How often members come back."""
    expire_s: Annotated[float, Field(gt=0)] | None = None
    """Who is silent for so long leaves the view; not set: three heartbeats."""
    suggest: dict[str, Any] = {}
    """Settings for newcomers, by dotted key, such as "topology.name"."""

    @property
    def patience_s(self) -> float:
        """How long a member may be silent."""
        return self.expire_s or HEARTBEATS * self.heartbeat_s

    @model_validator(mode="after")
    def _heartbeats_come_in_time(self) -> Self:
        if self.patience_s <= self.heartbeat_s:
            raise ValueError("expire_s must be longer than heartbeat_s")
        return self

    @model_validator(mode="before")
    @classmethod
    def _flat_suggestions(cls, data: Any) -> Any:
        """Let a file write suggestions as tables, as in node.toml."""
        if isinstance(data, dict) and isinstance(data.get("suggest"), dict):
            return data | {"suggest": _flat(data["suggest"])}
        return data


def read(path: Path | None, flags: dict[str, Any], suggest: dict[str, Any]) -> CoordinatorConfig:
    """Return what a file (or none) says, with what was given on the command line over it. Raises ConfigError."""
    given = {key: value for key, value in flags.items() if value is not None}
    config = load(CoordinatorConfig, path, given)
    return config.model_copy(update={"suggest": config.suggest | suggest})


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys; a table that is itself a value stays one."""
    flat: dict[str, Any] = {}
    for section, keys in table.items():
        if "." not in section and isinstance(keys, dict):
            flat |= {f"{section}.{key}": value for key, value in keys.items()}
        else:
            flat[section] = keys
    return flat
