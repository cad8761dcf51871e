"""From a base and a fine-tune to a delta file, tensor by tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...protocol.codec import encode as encode_frame
from ...protocol.delta import Delta
from ...protocol.entropy import Buffer
from ...protocol.errors import ConfigError, DivergedError
from ...protocol.limits import MIN_EXPONENT
from ..config import PublishConfig
from ..sparsify import compress
from .delta_file import manifest_of
from .delta_index import FILE_NAME, MAGIC, MAX_FILE, Carried, Index, Record, Span
from .header import MERGED, NAMES, Described
from .lossless import MANTISSA, exact
from .reading import Checkpoint
from .writing import refuse

SLACK: Final = 512
"""A change is worth so many bytes more than the whole tensor: it knows its base, and merges by entries."""
Told = Callable[[int], None]
"""Told how many bytes of the result are done."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What was written, for people and scripts."""

    file: str
    bytes: int
    model_bytes: int
    tensors: int
    unchanged: int
    entries: int
    """Entries that a frame adds to."""
    patches: int
    """Entries that stand in the file as they are, because adding would not have met their bits."""
    whole: tuple[str, ...]
    """Tensors that stand in the file whole."""
    absent: tuple[str, ...]
    """Tensors of the base that the fine-tune does not have."""
    files: tuple[str, ...]
    """Files of the folder that are carried along."""
    budget: str
    left: float
    """Share of the change's squared norm that stayed behind."""


class _Writer:
    """A delta file being written beside its place; it appears there once it is whole."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._partial = out.with_name(out.name + ".partial")
        if out.exists():
            raise ConfigError(f"{out}: exists; name another place, or remove it")
        try:
            self._file = self._partial.open("wb")
            self._file.write(MAGIC)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is not whole."""
        self._file.close()
        with suppress(FileNotFoundError):
            self._partial.unlink()

    def section(self, data: Buffer) -> Span:
        """Append a section."""
        span = Span(offset=self._file.tell(), size=len(data), sha256=hashlib.sha256(data).hexdigest())
        self._file.write(data)
        return span

    def finish(self, index: Index) -> int:
        """Append the index, and move the file to its place; return its size."""
        self._file.write(index.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        os.replace(self._partial, self._out)
        return size


def encode(
    base: Checkpoint,
    tuned: Checkpoint,
    out: Path,
    publish: PublishConfig | None = None,
    *,
    told: Told = lambda _: None,
) -> Encoded:
    """Write what leads from a base to a fine-tune; without `publish` every bit of it, else within that budget.

    What is no change of weights is always there whole: tensors that the base lacks or shapes differently, types that
    hold no weights, configuration files. Memory: a few times the largest tensor in float32. Raises ConfigError if an
    entry of a tensor that takes part is not finite, or the file cannot be written.
    """
    records, norms = [], [0.0, 0.0]
    entries = patches = 0
    try:
        with _Writer(out) as writer:
            for tensor in tuned.tensors.values():
                part = _part(base, tuned, tensor, publish)
                record = _record(writer, base, tuned, tensor, part, publish)
                records.append(record)
                entries += record.entries
                patches += record.patched
                if part is not None and record.raw is None:
                    norms = [norms[0] + part.squares, norms[1] + part.left]
                told(tensor.nbytes)
            files = [Carried(name=p.name, data=writer.section(p.read_bytes())) for p in _differing(base, tuned)]
            index = Index(
                tensors=records,
                files=files,
                budget=_budget(publish),
                left=min(1.0, norms[1] / norms[0]) if norms[0] else 0.0,
                metadata=tuned.metadata,
            )
            size = writer.finish(index)
    except OSError as error:
        refuse(error, out, "nothing was written; make room and run the same command")
    return Encoded(
        file=str(out),
        bytes=size,
        model_bytes=sum(tensor.nbytes for tensor in tuned.tensors.values()),
        tensors=len(records),
        unchanged=sum(not record.spans for record in records),
        entries=entries,
        patches=patches,
        whole=tuple(record.name for record in records if record.raw),
        absent=tuple(name for name in base.tensors if name not in tuned.tensors),
        files=tuple(file.name for file in files),
        budget=index.budget,
        left=index.left,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor's change: entries, places to patch, squared norms of all and of what is left behind."""

    delta: Delta
    places: npt.NDArray[np.int64]
    squares: float = 0.0
    left: float = 0.0


def _part(base: Checkpoint, tuned: Checkpoint, tensor: Described, publish: PublishConfig | None) -> _Part | None:
    """Return a tensor's change, or None if it has to be there whole."""
    old = base.tensors.get(tensor.name)
    if old is None or old.shape != tensor.shape or not {old.dtype, tensor.dtype} <= MERGED:
        return None
    if publish is None and tensor.dtype not in MANTISSA:
        return None
    before, after = base.read(tensor.name).reshape(-1), tuned.read(tensor.name).reshape(-1)
    for flat, path in ((before, base.path), (after, tuned.path)):
        if not flat.isfinite().all():
            raise ConfigError(f"{path}: {tensor.name!r} has entries that are not finite: this model is not usable")
    if publish is not None:
        return _budgeted(before, after, tensor, publish)
    found = exact(before, after)
    return _Part(found.delta, found.places)


def _budgeted(before: Tensor, after: Tensor, tensor: Described, publish: PublishConfig) -> _Part:
    manifest = manifest_of(tensor)
    x = np.zeros(manifest.length, np.float32)
    x[: tensor.size] = (after.float() - before.float()).numpy()
    floors = np.full(1, MIN_EXPONENT, np.int8)
    try:
        found = compress(x, manifest, floors, publish, np.random.default_rng(0))
    except DivergedError as error:
        raise ConfigError(f"{tensor.name!r}: the change is not finite in float32") from error
    wide = x.astype(np.float64)
    return _Part(found.delta, np.empty(0, np.int64), float(wide @ wide), found.residue**2)


def _record(
    writer: _Writer,
    base: Checkpoint,
    tuned: Checkpoint,
    tensor: Described,
    part: _Part | None,
    publish: PublishConfig | None,
) -> Record:
    """Write a tensor's sections; return its record."""
    about: dict[str, Any] = {"name": tensor.name, "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
    if part is not None:
        frame = places = patches = b""
        if len(part.delta):
            frame = _frame(part.delta, tensor)
        if len(part.places):
            places = part.places.astype("<i8").tobytes()
            patches = _bytes(tuned.read(tensor.name).reshape(-1)[torch.from_numpy(part.places)])
        if publish is not None or len(frame) + len(places) + len(patches) <= tensor.nbytes + SLACK:
            record = Record(
                **about,
                base=base.digest(tensor.name).hex(),
                frame=writer.section(frame) if frame else None,
                entries=len(part.delta),
                places=writer.section(places) if places else None,
                patches=writer.section(patches) if patches else None,
            )
            return record
    return Record(**about, raw=writer.section(_bytes(tuned.read(tensor.name).reshape(-1))))


def _frame(delta: Delta, tensor: Described) -> bytes:
    return encode_frame(delta, manifest_of(tensor), from_version=0, to_version=1, threads=torch.get_num_threads())


def _bytes(flat: Tensor) -> bytes:
    return flat.contiguous().view(torch.uint8).numpy().tobytes()


def _differing(base: Checkpoint, tuned: Checkpoint) -> list[Path]:
    """Return the files beside the fine-tune's weights that the base has not, or otherwise."""
    known = {path.name: path for path in base.extras}
    return [
        path
        for path in tuned.extras
        if FILE_NAME.fullmatch(path.name)
        and path.stat().st_size <= MAX_FILE
        and (path.name not in known or known[path.name].read_bytes() != path.read_bytes())
    ]


def _budget(publish: PublishConfig | None) -> str:
    if publish is None:
        return "lossless"
    given = {key: getattr(publish, key) for key in ("density", "bits", "relative_error")}
    return ", ".join(f"{key} = {value}" for key, value in given.items() if value is not None)
