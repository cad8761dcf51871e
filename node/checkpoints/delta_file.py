"""A delta file open for reading: what leads from a base to a fine-tune, tensor by tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from ...protocol.codec import Frame
from ...protocol.errors import ConfigError, FrameError
from ...protocol.manifest import Manifest, TensorSpec
from ..merging.rows import fill
from ..merging.sparse import Entries
from .delta_index import Record, Span, read_index
from .header import Described
from .reading import Checkpoint

FLOATS: Final = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
"""Types as manifests name them."""


class DeltaFile:
    """A delta file beside the base it was made from. Sections are checked against their digests when they are read."""

    def __init__(self, path: Path, base: Checkpoint) -> None:
        """Open a file. Raises ConfigError if it is damaged, or made from a base of other tensors."""
        self.path = path
        self.base = base
        self.index = read_index(path)
        self.tensors: dict[str, Described] = {record.name: record.described for record in self.index.tensors}
        self._records = {record.name: record for record in self.index.tensors}
        for record in self.index.tensors:
            if record.raw is not None:
                continue
            if record.name not in base.tensors or base.tensors[record.name].shape != tuple(record.shape):
                raise ConfigError(
                    f"{path}: its base has a tensor {record.name!r} of shape {record.shape}; {base.path}"
                    " has none: give the base that the file was made from"
                )
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def fingerprint(self) -> str:
        """Return what tells this file from others: the digest of its index, which holds those of its sections."""
        return hashlib.sha256(self.index.pack()).hexdigest()

    def is_whole(self, name: str) -> bool:
        """Say whether a tensor stands in the file whole."""
        return self._records[name].raw is not None

    def count(self, name: str) -> int:
        """Return the number of entries in which a tensor may differ from the base's, without reading them."""
        record = self._records[name]
        return record.described.size if record.raw else record.entries + record.patched

    def entries(self, name: str, ground: Tensor) -> Entries:
        """Return what leads from the base's tensor (flat, float32, on any device) to the fine-tune's.

        Raises ConfigError if the base's bytes are not those that the file was made from, a section is damaged, or an
        entry is not finite.
        """
        if self.is_whole(name):
            row = torch.empty_like(ground)
            self.fill(name, row, ground)
            place = row.nonzero().squeeze(1)
            return Entries(place, row[place])
        record = self._records[name]
        self._check_base(record)
        parts = list(self._changed(record, ground))
        index, values = torch.cat([index for index, _ in parts]), torch.cat([values for _, values in parts])
        if record.patched:
            index, order = index.sort()
            values = values[order]
        return Entries(index, values)

    def fill(self, name: str, row: Tensor, ground: Tensor | None) -> None:
        """See `merging.rows.Source`. Raises ConfigError without a base."""
        if ground is None:
            raise ConfigError(f"{self.path}: a delta file is merged relative to its base: give --base")
        if self.is_whole(name):
            fill(row, [self.raw(name)], ground, f"{self.path}: {name!r} (--ignore {name} takes the base's)")
            return
        record = self._records[name]
        self._check_base(record)
        row.zero_()
        for index, values in self._changed(record, ground):
            row[index] = values

    def restored(self, name: str) -> Tensor:
        """Return the fine-tune's tensor, flat, in its type: the base's bits wherever nothing was changed."""
        if self.is_whole(name):
            return self.raw(name)
        record = self._records[name]
        self._check_base(record)
        before = self.base.read(name).reshape(-1)
        after = before.to(record.described.dtype, copy=True)
        for index, values in self._added(record):
            after[index] = (before[index].float() + values).to(after.dtype)
        places, patches = self._replaced(record)
        after[places] = patches
        return after

    def digest(self, name: str) -> bytes:
        """Return the SHA-256 of the fine-tune's tensor."""
        raw = self._records[name].raw
        if raw is not None:
            return bytes.fromhex(raw.sha256)
        return hashlib.sha256(self.restored(name).view(torch.uint8).numpy().data).digest()

    def raw(self, name: str) -> Tensor:
        """Return a tensor that the file holds whole, flat, in its type."""
        record = self._records[name]
        if record.raw is None:
            raise ValueError(f"{name} is not held whole")
        return _tensor(self._read(record.raw, name), record.described.dtype)

    def carried(self) -> dict[str, bytes]:
        """Return the files of the fine-tune's folder that differ from the base's."""
        return {file.name: bytes(self._read(file.data, file.name)) for file in self.index.files}

    def _added(self, record: Record) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what is to be added, segment by segment: places and values."""
        if record.frame is None:
            return
        data = memoryview(self._read(record.frame, record.name))
        try:
            frame = Frame.open(data, manifest_of(record.described))
            scale = 2.0 ** int(frame.exponents[0])
            for part in frame.parts(torch.get_num_threads()):
                index = torch.from_numpy(part.places + np.int64(part.start))
                yield index, torch.from_numpy((part.levels * scale).astype(np.float32))
        except FrameError as error:
            raise ConfigError(f"{self.path}: {record.name!r}: {error}") from error

    def _changed(self, record: Record, ground: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield places, and the entries of `restored` there minus the ground's; on the ground's device."""
        for index, values in self._added(record):
            place = index.to(ground.device)
            before = ground[place]
            after = (before + values.to(ground.device)).to(record.described.dtype)
            yield place, self._finite(record, after.float().sub_(before))
        places, patches = self._replaced(record)
        place = places.to(ground.device)
        yield place, self._finite(record, patches.to(ground.device).float().sub_(ground[place]))

    def _finite(self, record: Record, values: Tensor) -> Tensor:
        if not values.isfinite().all():
            raise ConfigError(f"{self.path}: {record.name!r} has entries that are not finite: leave this model out")
        return values

    def _replaced(self, record: Record) -> tuple[Tensor, Tensor]:
        """Return places, and the fine-tune's entries there, in its type."""
        dtype = record.described.dtype
        if record.places is None or record.patches is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=dtype)
        places = _tensor(self._read(record.places, record.name), torch.int64)
        inside = places[0] >= 0 and places[-1] < record.described.size and bool((places[1:] > places[:-1]).all())
        if not inside:
            raise ConfigError(f"{self.path}: {record.name!r} has patches outside the tensor, or in no order")
        return places, _tensor(self._read(record.patches, record.name), dtype)

    def _check_base(self, record: Record) -> None:
        if record.base is not None and self.base.digest(record.name).hex() != record.base:
            raise ConfigError(
                f"{self.base.path}: tensor {record.name!r} is not that of the base which {self.path} was made from"
            )

    def _read(self, span: Span, name: str) -> bytearray:
        data = bytearray(span.size)
        done = 0
        while done < span.size:
            step = os.preadv(self._descriptor, [memoryview(data)[done:]], span.offset + done)
            if not step:
                raise ConfigError(f"{self.path}: became shorter while it was read")
            done += step
        if hashlib.sha256(data).hexdigest() != span.sha256:
            raise ConfigError(f"{self.path}: damaged: what it holds of {name!r} has another digest than it says")
        return data


def manifest_of(tensor: Described) -> Manifest:
    """Return the manifest of a frame that holds one tensor."""
    return Manifest((TensorSpec(tensor.name, tensor.shape, FLOATS[tensor.dtype], len(tensor.shape) <= 1),))


def _tensor(data: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
