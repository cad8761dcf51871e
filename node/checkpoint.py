"""Checkpoints: tau, the task's state and where everything stands, in one safetensors file. No pickle.

A checkpoint names the version of the log it was taken at. If the log is further (a kill between two
checkpoints), the published progress is not lost: tau = P_now + (tau - P_then).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from ..protocol.errors import DataDirError, DegradedError
from .storage import Storage

Json = Any
"""Nested data as `json` reads it, or with tensors in it."""
KEPT = 2
_FILE = re.compile(r"checkpoints/(\d{9})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a node needs to go on as if it had not stopped."""

    round: int
    epoch: int
    version: int
    tau: Tensor
    state: dict[str, Any]
    """The task's state: nested dicts and lists of tensors and JSON scalars."""
    ledger: dict[str, Any]
    pace: dict[str, float]
    """Smoothed figures by which gamma is measured."""


def save(storage: Storage, checkpoint: Checkpoint) -> None:
    """Write a checkpoint durably and drop all but the last two. Raises DegradedError.

    What claims a later round was passed over as damaged when this run took up an earlier one: it goes as well.
    """
    tensors: dict[str, Tensor] = {"tau": checkpoint.tau.cpu().clone()}
    meta = {
        "round": checkpoint.round,
        "epoch": checkpoint.epoch,
        "version": checkpoint.version,
        "state": flatten(checkpoint.state, tensors),
        "ledger": checkpoint.ledger,
        "pace": checkpoint.pace,
    }
    data = save_bytes(tensors, {"peermerge": json.dumps(meta)})
    name = f"checkpoints/{checkpoint.round:09d}.safetensors"
    storage.write(name, hashlib.sha256(data).digest() + data)
    try:
        files = _files(storage)
    except DataDirError as error:  # written it is, but nothing could be tidied up
        raise DegradedError(str(error)) from error
    here = files.index(name)
    for stale in files[: max(0, here + 1 - KEPT)] + files[here + 1 :]:
        storage.remove(stale)


def load(storage: Storage) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and the names of those that did not."""
    damaged: list[str] = []
    for name in reversed(_files(storage)):
        try:
            return _read(storage.read(name) or b""), damaged
        except DataDirError:
            damaged.append(name)
    return None, damaged


def flatten(value: object, tensors: dict[str, Tensor]) -> Json:
    """Return JSON for nested data; tensors go to `tensors` and leave their name behind.

    Raises TypeError for anything but dicts, lists, tuples, tensors and JSON scalars.
    """
    if isinstance(value, Tensor):
        name = f"state.{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping) and all(k is None or isinstance(k, str | int | float) for k in value):
        return {"dict": [[k, flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [flatten(v, tensors) for v in value]}
    if value is None or isinstance(value, str | int | float | bool):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: use dicts, lists, tensors and JSON scalars")


def unflatten(value: Json, tensors: Mapping[str, Tensor]) -> Json:
    """Return what `flatten` was given (tuples as lists)."""
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": items}:
            return {k: unflatten(v, tensors) for k, v in items}
        case {"list": items}:
            return [unflatten(v, tensors) for v in items]
        case {"value": scalar}:
            return scalar
    raise DataDirError("a checkpoint's state is damaged")


def _files(storage: Storage) -> list[str]:
    return [name for name in storage.names("checkpoints") if _FILE.fullmatch(name)]


def _read(data: bytes) -> Checkpoint:
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise DataDirError("digest")
    try:
        tensors = load_bytes(data[32:])
        size = int.from_bytes(data[32:40], "little")
        meta = json.loads(json.loads(data[40 : 40 + size])["__metadata__"]["peermerge"])
        return Checkpoint(
            round=meta["round"],
            epoch=meta["epoch"],
            version=meta["version"],
            tau=tensors["tau"],
            state=unflatten(meta["state"], tensors),
            ledger=meta["ledger"],
            pace=meta["pace"],
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataDirError(f"not a checkpoint: {error}") from error
