"""What a coordinator suggests to a newcomer, laid under what the user chose: asked once, before the node is built.

A run goes on with what it began with: what was asked is kept in the data directory, and never asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..protocol import suggestions as protocol
from ..protocol.addresses import parse_address
from ..protocol.errors import ConfigError, DataDirError, PeerError
from ..protocol.remote import channel
from ..protocol.rpc import Stub
from ..protocol.wire_pb2 import DESCRIPTOR, OverviewReply, OverviewRequest
from .config import DENSITY, NodeConfig, parse, put
from .storage import Storage
from .topology import make_topology

FILE = "suggestions.json"
ASK_S = 2.0
APART = ("density", "bits", "relative_error", "lossless")
"""Budgets of a frame: who chose one of them is suggested none."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """A configuration with the suggestions that it took."""

    config: NodeConfig
    taken: dict[str, Any]
    ignored: tuple[str, ...]
    """Keys that are not for a coordinator to suggest, or whose values no node could use."""
    answered: bool = True

    @property
    def sentences(self) -> list[str]:
        """What a person should know of them."""
        lines = [f"the coordinator suggests {key} = {value!r}" for key, value in self.taken.items()]
        lines += [f"the coordinator suggests something for {key} that cannot be used: ignored" for key in self.ignored]
        if not self.answered and (missed := _missed(self.config)):
            lines.append(
                f"the coordinator at {self.config.membership.coordinator} does not answer: what it may suggest is "
                f"missed, this run begins with {', '.join(missed)}, and later starts keep that; --fresh asks again"
            )
        return lines


async def ask(address: str, timeout_s: float = ASK_S) -> dict[str, str] | None:
    """Return what the coordinator suggests; None if it does not answer."""
    async with channel(parse_address(address)) as line:
        try:
            stub = Stub(line, DESCRIPTOR.services_by_name["Coordinator"])
            reply: OverviewReply = await stub.call("Overview", OverviewRequest(), timeout_s)
        except PeerError:
            return None
    return dict(reply.suggestions)


async def recall_or_ask(config: NodeConfig, storage: Storage, *, begun: bool) -> dict[str, str] | None:
    """Return what the run in a data directory began with or, for a run that begins, what is suggested now.

    None: the coordinator does not answer.
    """
    if config.membership.coordinator is None or not config.membership.suggestions:
        return {}
    if begun:
        return recall(storage)
    return await ask(config.membership.coordinator)


def recall(storage: Storage) -> dict[str, str]:
    """Return what was kept; raises DataDirError if it is damaged."""
    saved = storage.read(FILE)
    try:
        kept = json.loads(saved) if saved is not None else {}
        return {str(key): str(text) for key, text in kept.items()}
    except (ValueError, AttributeError) as error:
        raise DataDirError(f"{FILE} is damaged: restore it or start anew with --fresh") from error


def keep(storage: Storage, suggestions: Mapping[str, str]) -> None:
    """Keep what a run begins with. Raises DegradedError."""
    storage.write(FILE, json.dumps(dict(suggestions), indent=1, sort_keys=True).encode())


def suggested(config: NodeConfig, suggestions: Mapping[str, str] | None) -> Suggested:
    """Lay suggestions over a configuration, where the user set nothing else; what does not fit is left out."""
    if suggestions is None:
        return Suggested(config, {}, (), answered=False)
    values, ignored = protocol.read(suggestions)
    free = {key: value for key, value in values.items() if not _chosen(config, key)}
    taken: dict[str, Any] = {}
    result = config
    for keys in (_of(free, "topology."), *([key] for key in free if not key.startswith("topology."))):
        more = taken | {key: free[key] for key in keys}
        try:
            result = _laid(config, more)
        except ConfigError:
            ignored += tuple(keys)
        else:
            taken = more
    return Suggested(result, taken, tuple(sorted(ignored)))


def _laid(config: NodeConfig, values: Mapping[str, Any]) -> NodeConfig:
    data = config.model_dump(exclude_unset=True)
    for key, value in values.items():
        put(data, key, value)
    result = parse(NodeConfig, data, "the coordinator's suggestions")
    make_topology(result.topology.name, result.topology.parameters)
    return result


def _chosen(config: NodeConfig, key: str) -> bool:
    """Whether the user set a key, or another that goes with it."""
    section, name = key.split(".")
    given = getattr(config, section).model_fields_set
    if key == "publish.density":
        return not given.isdisjoint(APART)
    if key in ("topology.name", "topology.parameters"):
        return not given.isdisjoint(("name", "parameters"))
    return name in given


def _missed(config: NodeConfig) -> list[str]:
    """Return what is left to a coordinator, each with the default that counts without one."""
    defaults = config.model_dump() | {"publish": {"density": DENSITY}}
    return [f"{key} = {_at(defaults, key)!r}" for key in protocol.SUGGESTIBLE if not _chosen(config, key)]


def _at(data: Mapping[str, Any], key: str) -> object:
    section, name = key.split(".")
    return data[section][name]


def _of(values: Mapping[str, Any], prefix: str) -> list[str]:
    return [key for key in values if key.startswith(prefix)]
