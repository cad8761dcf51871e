"""The ordered list of tensors that take part: it fixes one flat index space for everybody.

Tensors lie one after the other in manifest order, each padded to a multiple of 64 entries. Both ends
of a connection hold the same manifest and compare its digest, so frames carry no names and no shapes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .errors import EnvelopeError, Refusal
from .limits import ALIGNMENT, MAX_NAME, MAX_PARAMETERS, MAX_TENSORS

DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, shape and type; `full` ones are published whole every round.

    Normalisation buffers and 1-D tensors are `full`: sparse deltas of variances go negative.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    full: bool

    @property
    def size(self) -> int:
        """Number of entries; 1 for a 0-d tensor, 0 for an empty one."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The tensors in order, their places in the flat index space, and the digest of it all."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        """Refuse what no model of ours can be."""
        if len(self.tensors) > MAX_TENSORS or sum(t.size for t in self.tensors) > MAX_PARAMETERS:
            raise EnvelopeError(Refusal.OVERSIZE, "manifest")
        if len({t.name for t in self.tensors}) != len(self.tensors):
            raise EnvelopeError(Refusal.BAD_HEADER, "a name stands twice in the manifest")
        for tensor in self.tensors:
            if len(tensor.name) > MAX_NAME:
                raise EnvelopeError(Refusal.OVERSIZE, f"name of {len(tensor.name)} characters")
            if tensor.dtype not in DTYPES:
                raise EnvelopeError(Refusal.BAD_DTYPE, f"{tensor.name}: {tensor.dtype}")

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """First flat index of every tensor, and the total length as a last element."""
        padded = [-(-t.size // ALIGNMENT) * ALIGNMENT for t in self.tensors]
        return np.concatenate([[0], np.cumsum(padded, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where every tensor lies in a flat vector (padding left out)."""
        return tuple(slice(start, start + t.size) for t, start in zip(self.tensors, self.starts.tolist(), strict=False))

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of entries of every tensor, without padding."""
        return np.array([t.size for t in self.tensors], dtype=np.int64)

    @cached_property
    def length(self) -> int:
        """Length of the flat index space, padding included."""
        return int(self.starts[-1])

    @cached_property
    def parameters(self) -> int:
        """Number of entries without padding."""
        return sum(t.size for t in self.tensors)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over names, shapes, types and the way each tensor is published."""
        digest = hashlib.sha256(b"peermerge/manifest/v1\0")
        for t in self.tensors:
            digest.update(repr((t.name, t.shape, t.dtype, t.full)).encode() + b"\n")
        return digest.digest()

    def slices(self) -> Iterator[tuple[TensorSpec, slice]]:
        """Yield every tensor with its place in a flat vector (padding left out)."""
        yield from zip(self.tensors, self.places, strict=True)

    def base_digest(self, tensors: Mapping[str, memoryview | bytes]) -> bytes:
        """Return the SHA-256 of the base: the manifest's digest and every tensor's raw little-endian bytes."""
        digest = self.base_hash()
        for spec in self.tensors:
            digest.update(tensors[spec.name])
        return digest.digest()

    def base_hash(self) -> hashlib._Hash:
        """Return the hash to which every tensor's raw bytes are still to be added."""
        return hashlib.sha256(b"peermerge/base/v1\0" + self.digest)


def manifest_of(tensors: Iterable[tuple[str, tuple[int, ...], str, bool]]) -> Manifest:
    """Build a manifest from (name, shape, dtype, full) in order."""
    return Manifest(tuple(TensorSpec(*t) for t in tensors))
