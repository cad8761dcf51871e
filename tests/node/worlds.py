"""Manifests, random deltas, publishers and followers for the tests of a node's parts."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from peermerge.node.log import PublishedLog
from peermerge.node.replicas import Pool, Replica, Replicas
from peermerge.node.state import State
from peermerge.node.storage import Draft, MemoryStorage, Storage
from peermerge.protocol.blob import Blob
from peermerge.protocol.codec import Frame, Source, encode
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import DegradedError
from peermerge.protocol.limits import MIN_EXPONENT
from peermerge.protocol.manifest import Manifest, manifest_of
from peermerge.protocol.messages import Edge, Header

BASE = bytes(range(32))
"""The base's digest where no model is around."""

MANIFEST = manifest_of(
    [
        ("layer.weight", (5, 13), "float32", False),
        ("layer.bias", (7,), "float32", True),
        ("empty", (0, 3), "float32", False),
        ("scale", (), "float32", True),
        ("head.weight", (10, 20), "float32", False),
    ]
)
"""Every kind of tensor: larger than the padding, smaller, empty, 0-d."""

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def free_floors(manifest: Manifest = MANIFEST) -> npt.NDArray[np.int8]:
    """Return floors that forbid nothing."""
    return np.full(len(manifest.tensors), MIN_EXPONENT, np.int8)


def delta(index: list[int], levels: list[int], exponent: int = -10, manifest: Manifest = MANIFEST) -> Delta:
    """Return a delta of these entries, on one grid."""
    exponents = np.full(len(manifest.tensors), exponent, np.int8)
    return Delta(exponents, np.array(index, np.int64), np.array(levels, np.int32))


def random_delta(rng: np.random.Generator, manifest: Manifest = MANIFEST, density: float | None = None) -> Delta:
    """Return a delta of any density, on a grid of its own per tensor; thousands of them sum without overflow."""
    places = np.concatenate([np.arange(place.start, place.stop) for _, place in manifest.slices()])
    index = places[rng.random(len(places)) < (rng.random() if density is None else density)].astype(np.int64)
    levels = rng.integers(1, 1 << int(rng.integers(1, 11)), len(index)) * rng.choice([-1, 1], len(index))
    return Delta(rng.integers(-14, -6, len(manifest.tensors)).astype(np.int8), index, levels.astype(np.int32))


def exact(state: State) -> list[int]:
    """Return all values as whole multiples of 2^-126."""
    exponents = np.repeat(state.exponents.astype(np.int64), np.diff(state.manifest.starts))
    return [int(level) << (int(e) - MIN_EXPONENT) for level, e in zip(state.levels, exponents, strict=True)]


def fresh_state(manifest: Manifest = MANIFEST) -> State:
    """Return a state at the base, without floors."""
    return State(manifest, free_floors(manifest))


def framed(source: Source, manifest: Manifest = MANIFEST) -> Frame:
    """Return the opened frame of a delta, or of a whole state."""
    return Frame.open(encode(source, manifest, from_version=0, to_version=1), manifest)


def equal(one: State, other: State) -> bool:
    """Say whether two states agree in integers, exponents and digests, and the digest in the integers."""
    same = np.array_equal(one.levels, other.levels) and np.array_equal(one.exponents, other.exponents)
    rehashed = State(other.manifest, other.floors, other.levels, other.exponents)
    return same and one.digest == other.digest == rehashed.digest


def header(round_: int = 0, edges: tuple[Edge, ...] = (), omega: float = 1.0, **log_fields: object) -> Header:
    """Return a header whose fields of the log are anything; the log fills them in."""
    fields: dict[str, object] = {
        "network": "net",
        "run": "run",
        "view": 7,
        "sender": "alice",
        "incarnation": 1,
        "epoch": 1,
        "version": 1,
        "from_version": 0,
        "round": round_,
        "base": BASE,
        "manifest": MANIFEST.digest,
        "chain": bytes(32),
        "state": 0,
        "frame_bytes": 0,
        "frame_sha256": bytes(32),
    }
    return Header(**(fields | log_fields), edges=edges, omega=omega)  # type: ignore[arg-type]


def publisher(
    storage: Storage | None = None, *, retention: int = 4, sender: str = "alice", manifest: Manifest = MANIFEST
) -> PublishedLog:
    """Open a log on a storage."""
    return PublishedLog(storage or MemoryStorage(), fresh_state(manifest), sender, BASE, retention)


def publish(log: PublishedLog, rng: np.random.Generator, count: int = 1) -> None:
    """Append random deltas, one a round."""
    for _ in range(count):
        log.append(random_delta(rng, log.state.manifest), header(log.last_round + 1))


def follower(folder: Path | None = None, pool: Pool | None = None, *, mapped: bool = True) -> Replicas:
    """Return replicas without any peer yet."""
    return Replicas(MANIFEST, free_floors(), BASE, folder, pool, mapped=mapped)


def pull(log: PublishedLog, replicas: Replicas, peer: str = "alice", *, snapshot: bool = False) -> Replica | None:
    """Bring a follower up to date by what the log plans for it; return what it then holds.

    Who wants a snapshot lets go of what it holds first, as for a dirty replica or a full merge's stranger.
    """
    if snapshot:
        replicas.forget(peer)
    for name in log.plan(replicas.point(peer), snapshot=snapshot):
        entry = log.read(name)
        replicas.apply(peer, entry.header, entry.frame)
    return replicas.get(peer)


def greet(log: PublishedLog, replicas: Replicas, peer: str = "alice") -> None:
    """Do what follows from a Hello: open a new epoch if the follower holds what the log does not lead to."""
    held = replicas.point(peer)
    if log.contradicts(held):
        log.restart(held.epoch + 1, header(log.last_round))


def all_bytes(blob: Blob) -> bytes:
    """Return all bytes of a blob."""
    return bytes(blob.read(0, len(blob)))


class RecordingStorage(MemoryStorage):
    """Remembers every write, calls back around each, and refuses writes or removals while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.stuck = False
        self.written: list[str] = []
        self.watch: Callable[[str], None] = lambda name: None

    @contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[Draft]:
        """Lend a draft, or refuse."""
        self.watch(name)
        if self.full:
            raise DegradedError("no space left")
        with super().create(name, durable=durable) as draft:

            def commit() -> None:
                draft.commit()
                self.written.append(name)
                self.watch(name)

            yield replace(draft, commit=commit)

    def remove(self, name: str) -> None:
        """Drop the bytes, or refuse."""
        self.watch(name)
        if self.stuck:
            raise DegradedError("read-only")
        super().remove(name)
        self.watch(name)

    def copy(self) -> MemoryStorage:
        """Return a backup."""
        twin = MemoryStorage()
        for name in self.names("log"):
            twin.write(name, self.read(name) or b"")
        return twin


class Faults:
    """Lets the n-th call of a function, and all later ones, fail with an error of the system."""

    def __init__(self, real: Callable[..., object], at: int, number: int = errno.ENOSPC) -> None:
        self._real, self._at, self._number = real, at, number
        self.calls = 0
        self.fired = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., object]:
        """Stand in for a method, too."""
        return partial(self, instance)

    def __call__(self, *arguments: object, **keywords: object) -> object:
        """Call through, or fail."""
        self.calls += 1
        if self.calls >= self._at:
            self.fired += 1
            raise OSError(self._number, "no space left on device")
        return self._real(*arguments, **keywords)


class HalfWritten:
    """A file on a disk that fills up: of the write that fails, half is there."""

    def __init__(self, file: IO[Any], fault: Callable[[], object]) -> None:
        self.file, self.fault = file, fault

    def write(self, data: bytes) -> int:
        """Write all, or the first half and fail."""
        half = self.file.write(data[: len(data) // 2])
        self.fault()
        return half + self.file.write(data[half:])

    def __getattr__(self, name: str) -> object:
        """Be the file in all else."""
        return getattr(self.file, name)

    def __enter__(self) -> HalfWritten:
        """Enter as the file does."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.file.close()


WRITE_POINTS = ("open", "write", "fsync", "replace", "fsync folder")
"""Where a durable write touches the disk, in order."""


def break_disk(monkeypatch: pytest.MonkeyPatch, point: str, number: int = errno.ENOSPC, *, writes: int = 0) -> Faults:
    """Let one of the calls of a durable write fail from now on, with every call of its kind after it.

    writes: how many pass before, where the point is `write`.
    """
    if point == "write":
        fault, real = Faults(lambda: None, writes + 1, number), open
        monkeypatch.setattr("builtins.open", lambda path, mode: HalfWritten(real(path, mode), fault))
        return fault
    target = {"open": (builtins, "open"), "replace": (os, "replace")}.get(point, (os, "fsync"))
    fault = Faults(getattr(*target), 2 if point == "fsync folder" else 1, number)
    monkeypatch.setattr(*target, fault)
    return fault


class Tied(nn.Module):
    """A small model with a tied weight, a frozen one, normalisation, and a buffer that no state dict holds."""

    scratch: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embed = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits: [batch] -> [batch, 6]."""
        logits: torch.Tensor = self.head(self.frozen(self.norm(self.embed(tokens))))
        return logits


def flips(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Yield the data with one bit turned, truncated, and empty: `count` of the first kind."""
    for place in itertools.islice(iter(lambda: int(rng.integers(len(data))), None), count):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)
    yield data[: len(data) // 2]
    yield b""
