"""Take into the kept corpus those of new inputs that reach steps of the protocol which no kept one reaches.

python -m tests.fuzz.distil FOLDER ...

A step is a line of `protocol/` after another one; what became of the input counts too. Short inputs come first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from peermerge.protocol import codec

from .inputs import CORPUS, check, keep

WATCHED = str(Path(codec.__file__).parent)
Step = tuple[object, ...]


def steps(data: bytes) -> set[Step]:
    """Return the steps that an input takes."""
    taken: set[Step] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        taken.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno, event))
        last[frame] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        outcome = check(data)
    finally:
        sys.settrace(None)
    return {*taken, (data[:1], outcome)}


def main() -> None:
    """Copy what is new."""
    known: set[Step] = set()
    for path in sorted(CORPUS.iterdir()):
        known |= steps(path.read_bytes())
    offered = {path.read_bytes() for folder in sys.argv[1:] for path in Path(folder).iterdir() if path.suffix != ".txt"}
    for data in sorted(offered, key=lambda data: (len(data), data)):
        if found := steps(data) - known:
            known |= found
            print(keep(data), len(found))


if __name__ == "__main__":
    main()
