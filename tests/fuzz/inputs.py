"""Inputs of all engines in one form: a byte that says what follows, and what a stranger sent.

`F` is a frame (of the model whose digest it names), the other letters are messages. The kept corpus and the files
of findings have this form, so that any engine, and the tests, can replay them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import wire
from .paths import take, take_again
from .seeds import manifest_for

FRAME = b"F"
CORPUS = Path(__file__).parent / "corpus"


def check(data: bytes) -> str:
    """Hand an input to every path it can reach; return what became of it, or raise what must not happen."""
    kind, rest = data[:1], data[1:]
    if kind == FRAME:
        outcome = take(rest, manifest_for(rest))
        take_again(rest, manifest_for(rest), outcome)
        return outcome.name
    return wire.read(kind, rest) if kind in wire.EVERY_KIND else "no input"


def keep(data: bytes, folder: Path = CORPUS, problem: str = "") -> Path:
    """Write an input to a folder, and beside it what it did if that is a problem; return the input's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    if problem:
        path.with_suffix(".txt").write_text(problem + "\n")
    return path
