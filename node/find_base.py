"""Where a node's base comes from, and where it is kept: a node goes on with the base that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from safetensors.torch import save as save_bytes
from torch import Tensor

from ..protocol.clock import Clock
from ..protocol.errors import ConfigError
from ..protocol.parts import ANY_BASE
from ..protocol.transport import Transport
from .base import FILE, read_base
from .base_source import DIGEST, wanted
from .config import NodeConfig
from .data_dir import MANIFEST
from .events import Events
from .fetch import FOLDER, BaseFetch
from .gather import Identity
from .membership.coordinator import members_of
from .params import describe, load_tensors, ties
from .participant import Participant, taking_part
from .remember import remembered
from .storage import DiskStorage, Storage
from .workload import Workload


async def find_base(
    config: NodeConfig,
    workload: Workload,
    incarnation: int,
    storage: DiskStorage,
    transport: Transport,
    clock: Clock,
    events: Events,
    until_stop: Callable[[Awaitable[Path]], Awaitable[Path | None]],
) -> dict[str, Tensor] | None:
    """Return the base that is kept, given, or fetched; None for the task's own, and where a stop came first.

    until_stop: awaits the fetch, or returns None at a stop. Raises PeermergeError.
    """
    given, kept = config.node.base, storage.root / FILE
    if kept.exists():
        return load_tensors(kept)
    if (digest := wanted(given)) is None:
        return load_tensors(Path(given)) if given else None
    manifest = describe(workload.model, taking_part(workload.model, config))
    me = Identity(config.network, config.run, config.node.name, incarnation, digest, manifest)
    search = BaseFetch(me, config, transport, clock, storage.root / FOLDER)
    found = await until_stop(search.fetch(partial(known, config, storage)))
    if found is None:
        return None
    events.emit("base", sha256=found.name, received=search.received)
    return read_base(found, manifest)


async def known(config: NodeConfig, storage: Storage) -> list[str]:
    """Return the addresses to ask: those listed, those that a coordinator names now, and those remembered."""
    settings = config.membership
    named = await members_of(config.network, config.run, settings.coordinator) if settings.coordinator else ()
    others = [m.address for m in (*named, *remembered(storage)) if m.name != config.node.name]
    return list(dict.fromkeys([*settings.peers, *others]))


def keep_base(node: Participant, storage: DiskStorage) -> None:
    """Keep the base beside the log: an initialisation is not promised equal across builds.

    Raises ConfigError if it is not the one that the configuration names by its digest.
    """
    given = node.config.node.base
    if wanted(given) not in (None, ANY_BASE, node.identity.base):
        raise ConfigError(
            f"node.base = {given!r}, but the base here is {DIGEST}{node.identity.base.hex()}; "
            "use another --data-dir or start anew with --fresh"
        )
    if (storage.root / FILE).exists():
        return
    full = {n: t.detach().cpu().contiguous().clone() for n, t in node.workload.model.state_dict().items()}
    storage.write(FILE, save_bytes(full))
    specs = [[s.name, list(s.shape), s.dtype, s.full] for s in node.manifest.tensors]
    storage.write(MANIFEST, json.dumps({"tensors": specs, "ties": ties(node.workload.model)}).encode())
    shutil.rmtree(storage.root / FOLDER, ignore_errors=True)
