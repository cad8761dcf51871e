"""From a base and a delta file back to the fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .delta_file import DeltaFile
from .layout import arrange
from .writing import Output


@dataclass(frozen=True, slots=True)
class Applied:
    """What was written, for people and scripts."""

    out: str
    tensors: int
    whole: tuple[str, ...]
    """Tensors that did not come from the base."""
    absent: tuple[str, ...]
    """Tensors of the base that the fine-tune does not have."""
    files: tuple[str, ...]
    """Files carried along that differ from the base's."""
    exact: bool
    """Whether every bit is the fine-tune's."""


def apply(
    delta: DeltaFile, out: Path, *, shard_bytes: int | None = None, told: Callable[[int], None] = lambda _: None
) -> Applied:
    """Write the fine-tune that a delta file was made from, as far as its budget kept it, in the base's layout.

    Raises ConfigError if the base is another than the file was made from. Interrupted, it goes on when called again.
    """
    base, tensors = delta.base, list(delta.tensors.values())
    files = arrange(out, base, tensors, shard_bytes)
    carried = delta.carried()
    with Output(out, files, delta.index.metadata, f"apply {delta.fingerprint()} {base.fingerprint()}") as output:
        for tensor in (tensor for listed in files.values() for tensor in listed):
            if tensor.name not in output.done:
                output.write(tensor, delta.restored(tensor.name))
            told(tensor.nbytes)
        output.finish([path for path in base.extras if path.name not in carried], carried)
    return Applied(
        out=str(out),
        tensors=len(tensors),
        whole=tuple(tensor.name for tensor in tensors if delta.is_whole(tensor.name)),
        absent=tuple(name for name in base.tensors if name not in delta.tensors),
        files=tuple(carried),
        exact=delta.index.budget == "lossless",
    )
