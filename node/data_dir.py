"""What a data directory was made for: the configuration kept in it, what `--fresh` removes, and the incarnation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..protocol.errors import ConfigError, DataDirError
from . import attachments, base, fetch, result, suggestions
from .config import NodeConfig, differences
from .storage import DiskStorage

Mode = Literal["auto", "resume", "fresh"]
CONFIG = "config.json"
MANIFEST = "manifest.json"
REPLICAS = "replicas"
CONTENTS = (
    *("log", REPLICAS, "checkpoints", attachments.FOLDER, fetch.FOLDER),
    *(CONFIG, MANIFEST, base.FILE, result.FILE, suggestions.FILE),
)
"""What `--fresh` removes."""


async def begun_with(config: NodeConfig, mode: Mode) -> tuple[suggestions.Suggested, dict[str, str] | None]:
    """Lay what a coordinator suggests under a configuration; return what was suggested, too.

    A run that goes on is suggested what it began with.
    """
    root = Path(config.node.data_dir)
    begun = mode != "fresh" and (root / CONFIG).exists()
    asked = await suggestions.recall_or_ask(config, DiskStorage(root, lock=False), begun=begun)
    return suggestions.suggested(config, asked), asked


def prepare(storage: DiskStorage, config: NodeConfig, mode: Mode, asked: Mapping[str, str]) -> None:
    """Wipe for --fresh, refuse what is not ours to resume, note the configuration and what was suggested for it."""
    root = storage.root
    saved = storage.read(CONFIG)
    if mode == "fresh" and saved is not None:
        _wipe(root)
        saved = None
    if mode == "resume" and saved is None:
        raise DataDirError(f"{root}: nothing to resume here; leave out --resume or give another --data-dir")
    ours = config.model_dump(mode="json")
    ours["membership"]["mqtt"] = None  # it may hold a password
    if saved is not None and (changes := differences(_fixed(_parsed(saved, root)), _fixed(ours))):
        raise ConfigError(
            f"{root} was made with another configuration: {'; '.join(changes)}. "
            "Undo the change, use another --data-dir, or start anew with --fresh"
        )
    if saved is None and asked:
        suggestions.keep(storage, asked)
    storage.write(CONFIG, json.dumps(ours, indent=1).encode())


def next_incarnation(storage: DiskStorage) -> int:
    """Count one more start; return which it is."""
    incarnation = int((storage.read("incarnation") or b"0").decode()) + 1
    storage.write("incarnation", str(incarnation).encode())
    return incarnation


def _wipe(root: Path) -> None:
    for name in CONTENTS:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must not change on resume: addresses, deployment and the number of rounds may."""
    shared = {k: v for k, v in config.items() if k not in ("node", "membership", "schedule")}
    shared["schedule"] = {k: v for k, v in config["schedule"].items() if k != "rounds"}
    return shared | {"node": {k: config["node"][k] for k in ("name", "start_noise", "base")}}


def _parsed(data: bytes, root: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(data)
        _fixed(saved)
    except (ValueError, KeyError) as error:
        raise DataDirError(f"{root}/{CONFIG} is damaged: restore it or start anew with --fresh") from error
    return saved
