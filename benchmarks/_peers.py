"""What other systems put on the wire for the same update, reproduced from their descriptions.

Only the bytes that hold the update are made: what wraps them would add to it. Where a system leaves the order of
entries open, the one that compresses better is taken.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from _deltas import Floats
from safetensors.torch import save

Tensors = Mapping[str, Floats]

BINS = 256
RANGE_IN_SIGMAS = 6
"""hivemind's 256 bins span six standard deviations; what lies beyond is clipped."""


@dataclass(frozen=True, slots=True)
class Message:
    """The bytes, and what a receiver makes of them."""

    data: bytes
    values: Tensors


@dataclass(frozen=True, slots=True)
class Peer:
    """A system's format; `density` is the share of entries it is given, the largest of them; None stands for all."""

    key: str
    name: str
    encode: Callable[[Tensors], Message]
    density: float | None = None


def quinkgl(tensors: Tensors) -> Message:
    """QuinkGL 0.3: int32 places, differences in float64, base64, zlib at level 6."""
    return Message(zlib.compress(base64.b64encode(_indexed(tensors, np.int32, np.float64)), 6), tensors)


def p2pfl(tensors: Tensors) -> Message:
    """p2pfl 0.4 `topk`: uint32 places, float32 values."""
    return Message(_indexed(tensors, np.uint32, np.float32), tensors)


def p2pfl_zlib(tensors: Tensors) -> Message:
    """The same through its `zlib` at level 6."""
    return Message(zlib.compress(_indexed(tensors, np.uint32, np.float32), 6), tensors)


def hivemind(tensors: Tensors) -> Message:
    """Hivemind 1.1 uniform 8 bit: per tensor the codebook's length, the mean of every bin, a byte per entry."""
    planes: list[bytes] = []
    received: dict[str, Floats] = {}
    for name, values in tensors.items():
        flat = values.ravel()
        scale = RANGE_IN_SIGMAS * float(flat.std(ddof=1)) / BINS
        bins = np.clip(np.rint((flat - flat.mean()) / scale) + BINS // 2, 0, BINS - 1).astype(np.uint8)
        sums = np.bincount(bins, flat, BINS)
        codebook = (sums / np.maximum(np.bincount(bins, minlength=BINS), 1)).astype(np.float32)
        planes += [np.int64(BINS).tobytes(), codebook.tobytes(), bins.tobytes()]
        received[name] = codebook[bins].reshape(values.shape)
    return Message(b"".join(planes), received)


def zipnn(tensors: Tensors) -> Message:
    """ZipNN (Hershcovitch et al. 2024) on bf16: exponents, and signs with mantissas, each through zstd if smaller."""
    halves = np.concatenate([_halves(v).view(torch.int16).numpy().view(np.uint16).ravel() for v in tensors.values()])
    exponents = (halves >> 7).astype(np.uint8).tobytes()
    rest = (halves >> 8 & 0x80 | halves & 0x7F).astype(np.uint8).tobytes()
    compressor = zstandard.ZstdCompressor(level=1)
    packed = (min(compressor.compress(plane), plane, key=len) for plane in (exponents, rest))
    return Message(b"".join(packed), _received(tensors))


def safetensors_zstd(tensors: Tensors) -> Message:
    """A safetensors file of bf16 through zstd at level 3."""
    file = save({name: _halves(values) for name, values in tensors.items()})
    return Message(zstandard.ZstdCompressor(level=3).compress(file), _received(tensors))


def plain(tensors: Tensors) -> Message:
    """Float32 as it is: what federated averaging sends, and the input of all others."""
    return Message(b"".join(values.tobytes() for values in tensors.values()), tensors)


def _indexed(tensors: Tensors, index_type: npt.DTypeLike, value_type: npt.DTypeLike) -> bytes:
    """Return per tensor the places of the entries that are not zero, ascending, and their values."""
    planes: list[bytes] = []
    for values in tensors.values():
        places = np.flatnonzero(values)
        planes += [places.astype(index_type).tobytes(), values.ravel()[places].astype(value_type).tobytes()]
    return b"".join(planes)


def _halves(values: Floats) -> torch.Tensor:
    return torch.from_numpy(values).bfloat16()


def _received(tensors: Tensors) -> Tensors:
    return {name: _halves(values).float().numpy() for name, values in tensors.items()}


PEERS = (
    Peer("quinkgl_1pct", "QuinkGL top 1 %", quinkgl, 0.01),
    Peer("p2pfl_10pct", "p2pfl top-k 10 %", p2pfl, 0.1),
    Peer("p2pfl_10pct_zlib", "p2pfl top-k 10 %, zlib", p2pfl_zlib, 0.1),
    Peer("fp32", "fp32", plain),
    Peer("hivemind_8bit", "hivemind uniform 8 bit", hivemind),
    Peer("zipnn_bf16", "ZipNN, bf16", zipnn),
    Peer("safetensors_bf16", "safetensors bf16, zstd-3", safetensors_zstd),
)
