"""The second engine: atheris, which keeps what reaches new lines and branches of the protocol and mutates it further.

python -m tests.fuzz.guided --seed 1 --seconds 60 --corpus NEW --save DIR

Inputs (see `inputs`) begin with the kept corpus. Half of the mutants are libFuzzer's own, with the checksum of a
frame's tables made right; half are structured ones of frames that pass their tables. Needs atheris (Linux, CPython).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

PACKAGE = "peermerge.protocol"
atheris: Any = importlib.import_module("atheris")
"""It has no types. Whatever it is to follow must be imported, for the first time, below."""

with atheris.instrument_imports(include=[PACKAGE]):
    from ..protocol.plain_decoder import Refused, read_tables
    from .draft import parse, sealed
    from .inputs import CORPUS, FRAME, check, keep
    from .mutate import mutate
    from .seeds import manifest_for, seeds


def main() -> None:
    """Run until the time is over; an input that must not be is kept, and ends the process with another status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--save", type=Path, default=Path("fuzz-out"), help="folder for findings")
    parser.add_argument("--corpus", type=Path, required=True, help="folder for inputs that reached something new")
    given = parser.parse_args()
    pool = seeds(Random(given.seed)).small

    def change(data: bytes, most: int, seed: int) -> bytes:
        """Return a mutant of an input."""
        rng = Random(seed)
        if data[:1] == FRAME and rng.random() < 0.5 and passes(data[1:]):
            changed = FRAME + mutate(parse(data[1:]), rng.choice(pool).draft, rng)
        else:
            changed = bytes(atheris.Mutate(data, most))
            if changed[:1] == FRAME and rng.random() < 0.9:
                changed = FRAME + sealed(changed[1:])
        return changed[:most]

    def one(data: bytes) -> None:
        try:
            check(data)
        except Exception:
            print(f"FINDING {keep(data, given.save, traceback.format_exc())}", flush=True)
            raise

    options = [f"-seed={given.seed}", f"-max_total_time={given.seconds}", "-max_len=4096", "-print_final_stats=1"]
    folders = [str(given.corpus), str(CORPUS)]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={given.save}/", *folders], one, custom_mutator=change)
    atheris.Fuzz()


def passes(frame: bytes) -> bool:
    """Say whether a frame's tables hold what they must."""
    try:
        read_tables(frame, manifest_for(frame))
    except Refused:
        return False
    return True


if __name__ == "__main__":
    main()
