"""What a delta file says of itself: the index at its end. The layout stands in protocol/README.md.

magic (8 bytes) | sections, one after the other | index (JSON) | its length (u32, little-endian) | its SHA-256
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from ...protocol.errors import ConfigError
from ...protocol.limits import MAX_NAME, MAX_TENSORS
from ..config import Section
from .header import DTYPES, MAX_HEADER, Described, check_shape

MAGIC: Final = b"PMDELTA\x01"
TRAILER: Final = struct.Struct("<I32s")
MAX_FILE: Final = 1 << 26
"""A configuration or tokenizer file that a delta file carries."""
FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.(json|txt|model|jinja|tiktoken|md)")
"""What may be carried along: data in the folder's own level, and nothing that runs."""

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Span(Section):
    """A section of the file."""

    offset: Count
    size: Count
    sha256: Digest


class Record(Section):
    """A tensor of the fine-tune: what leads from the base's tensor of the same name to it, or its own bytes."""

    name: Annotated[str, Field(max_length=MAX_NAME)]
    dtype: str
    shape: list[Count]
    base: Digest | None = None
    """SHA-256 of the base's tensor that the frame and the patches are for."""
    frame: Span | None = None
    """What to add, as one frame of the codec; without one nothing is added."""
    entries: Count = 0
    """How many entries the frame has."""
    places: Span | None = None
    """Flat places (int64, ascending) that adding does not bring to the very bits of the fine-tune."""
    patches: Span | None = None
    """The fine-tune's entries at these places, in its type."""
    raw: Span | None = None
    """The whole tensor: where there is no base for it, its type holds no weights, or a delta would be larger."""

    @property
    def described(self) -> Described:
        """Return name, type and shape."""
        return Described(self.name, DTYPES[self.dtype], tuple(self.shape))

    @property
    def patched(self) -> int:
        """Return the number of patches."""
        return 0 if self.places is None else self.places.size // 8

    @property
    def spans(self) -> list[Span]:
        """Return the record's sections in their order."""
        return [span for span in (self.frame, self.places, self.patches, self.raw) if span is not None]


class Carried(Section):
    """A file of the fine-tune's folder that differs from the base's."""

    name: str
    data: Span


class Index(Section):
    """All that is known of a delta file without reading its sections."""

    tensors: Annotated[list[Record], Field(max_length=MAX_TENSORS)]
    files: Annotated[list[Carried], Field(max_length=1000)] = Field(default_factory=list)
    budget: Annotated[str, Field(max_length=200)]
    """`lossless`, or what was allowed to stay behind."""
    left: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the change's squared norm that stayed behind."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """That of the fine-tune's safetensors files."""

    @property
    def base_digest(self) -> str:
        """Return one digest for all tensors of the base that are needed: SHA-256 over their names and digests."""
        digest = hashlib.sha256()
        for record in self.tensors:
            digest.update(f"{record.name}\0{record.base}\n".encode())
        return digest.hexdigest()

    def pack(self) -> bytes:
        """Return the index with its length and digest."""
        text = json.dumps(self.model_dump(exclude_defaults=True), separators=(",", ":")).encode()
        return text + TRAILER.pack(len(text), hashlib.sha256(text).digest())


def read_index(path: Path) -> Index:
    """Return the checked index of a delta file. Raises ConfigError that names the file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if file.read(len(MAGIC)) != MAGIC or size < len(MAGIC) + TRAILER.size:
                raise ConfigError(f"{path}: not a delta file of this version; `peermerge delta encode` writes them")
            file.seek(size - TRAILER.size)
            length, digest = TRAILER.unpack(file.read(TRAILER.size))
            start = size - TRAILER.size - length
            if start < len(MAGIC) or length > MAX_HEADER:
                raise ConfigError(f"{path}: damaged or cut off: an index of {length} bytes in {size}")
            file.seek(start)
            text = file.read(length)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(text).digest() != digest:
        raise ConfigError(f"{path}: damaged or cut off: its index has another digest than it says")
    try:
        index = Index.model_validate_json(text)
        _check(index, start)
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"{path}: not a valid delta file: {_first(error)}") from error
    return index


def _check(index: Index, end: int) -> None:
    """Raise ValueError unless the sections fill the file without overlap, and sizes follow from shapes."""
    if len({record.name for record in index.tensors}) != len(index.tensors):
        raise ValueError("a name stands twice")
    for record in index.tensors:
        if record.dtype not in DTYPES:
            raise ValueError(f"{record.name!r} has the unknown type {record.dtype!r:.40}")
        check_shape(record.shape)
        _check_record(record)
    for carried in index.files:
        if FILE_NAME.fullmatch(carried.name) is None or carried.data.size > MAX_FILE:
            raise ValueError(f"a file {carried.name!r:.80} of {carried.data.size} bytes is not carried along")
    spans = chain(chain.from_iterable(r.spans for r in index.tensors), (carried.data for carried in index.files))
    place = len(MAGIC)
    for span in spans:
        if span.offset != place:
            raise ValueError("its sections overlap or leave gaps")
        place += span.size
    if place != end:
        raise ValueError("its sections do not end where its index begins")


def _check_record(record: Record) -> None:
    tensor = record.described
    count = record.patched
    changed = record.frame or record.places or record.patches
    if record.raw is not None and (changed or record.base or record.raw.size != tensor.nbytes):
        raise ValueError(f"{record.name!r} has a section of a wrong size, or one too many")
    if record.raw is None and record.base is None:
        raise ValueError(f"{record.name!r} has neither a base nor bytes of its own")
    if (record.places is None) != (record.patches is None) or count + record.entries > tensor.size:
        raise ValueError(f"{record.name!r} has more entries than its shape, or patches without places")
    if (
        record.places
        and record.patches
        and (record.places.size, record.patches.size)
        != (
            8 * count,
            tensor.dtype.itemsize * count,
        )
    ):
        raise ValueError(f"{record.name!r} has patches of a wrong size")


def _first(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return str(error)
