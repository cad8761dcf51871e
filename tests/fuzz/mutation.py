"""The first engine: structured mutants of valid frames, by number, through every path; and damaged messages.

python -m tests.fuzz.mutation --seed 1 --frames 10000          prints a report as one line of JSON
python -m tests.fuzz.mutation --seed 1 --only 4711 --save DIR  writes one frame as an input file

Mutant i of a seed is always the same, so a process that was killed can be asked for the frame that killed it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from peermerge.protocol import loops
from peermerge.protocol.manifest import Manifest

from . import wire
from .inputs import FRAME, keep
from .mutate import mutate
from .paths import Broken, Outcome, memory, take, take_again
from .seeds import Seeds, seeds

MS_PER_MIB = {True: 50.0, False: 200.0}
"""The longest that a path may take for one MiB, compiled and not; shorter frames count as one: a call has a price."""
FREE_BYTES, BYTES_PER_PARAMETER = 2_000_000, 8
"""The most memory that decoding may take besides frame and accumulators."""
AGAIN, MEASURED, TOLD = 16, 100, 8
"""One frame in so many also takes the slow paths; has its memory measured; is followed by a message."""
LARGE = 1 << 20
"""Frames of models with more parameters all have their memory measured."""
BLOCK = 500
"""So many outcomes have a digest together: two processes compare what they saw by these."""
MOST_FINDINGS = 20


@dataclass
class Report:
    """What one process saw. slowest: milliseconds per MiB; memory: share of what is allowed; blocks: see `BLOCK`."""

    compiled: bool
    frames: int = 0
    passed: int = 0
    messages: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: float = 0.0
    blocks: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another process's report in."""
        self.frames += other.frames
        self.passed += other.passed
        self.messages += other.messages
        self.outcomes.update(other.outcomes)
        self.slowest = max(self.slowest, other.slowest)
        self.memory = max(self.memory, other.memory)
        self.findings += other.findings


def mutant(seed: int, number: int, pool: Seeds) -> tuple[bytes, Manifest]:
    """Return a mutated frame and the model that its receiver has."""
    rng = Random(f"{seed}/{number}")
    origin, donor = pool.draw(rng)
    return mutate(origin.draft, donor, rng), origin.manifest


def run(seed: int, numbers: range, seconds: float, findings: Path, progress: mmap.mmap | None = None) -> Report:
    """Take the mutants of these numbers until the time is over; keep every input that is not handled as it must."""
    began = monotonic()
    report, pool, seen = Report(loops.COMPILED), seeds(Random(seed)), hashlib.sha256()
    for number in numbers:
        if monotonic() - began > seconds or len(report.findings) >= MOST_FINDINGS:
            break
        if progress is not None:
            progress[:8] = number.to_bytes(8, "little")
        frame, manifest = mutant(seed, number, pool)
        try:
            outcome = take(frame, manifest)
            seen.update(f"{outcome.tables} {outcome.name} ".encode() + outcome.content)
            report.passed += outcome.tables
            report.outcomes[outcome.name] += 1
            examine(frame, manifest, outcome, number, report)
        except Exception:  # what must not happen, whatever it is, is what we look for
            problem = f"mutant {number} of seed {seed}\n{traceback.format_exc()}"
            report.findings.append(f"{keep(FRAME + frame, findings, problem)}: {problem.strip().splitlines()[-1]}")
        report.frames += 1
        if report.frames % BLOCK == 0:
            report.blocks.append(seen.hexdigest()[:16])
        if number % TOLD == 0:
            tell(Random(f"{seed}/{number}/message"), report, findings)
    return report


def examine(frame: bytes, manifest: Manifest, outcome: Outcome, number: int, report: Report) -> None:
    """Look at what a frame cost, and take it by the slow paths if that is due."""
    slow = ms_per_mib(outcome, frame)
    for _ in range(3):  # a slow frame is slow again; a busy machine is not
        if slow > MS_PER_MIB[report.compiled]:
            slow = min(slow, ms_per_mib(take(frame, manifest), frame))
    report.slowest = max(report.slowest, slow)
    if slow > MS_PER_MIB[report.compiled]:
        raise Broken(f"{slow:.0f} ms per MiB")
    if number % AGAIN == 0:
        take_again(frame, manifest, outcome)
    if number % MEASURED == 0 or manifest.parameters > LARGE:
        share = memory(frame, manifest) / (FREE_BYTES + BYTES_PER_PARAMETER * manifest.parameters)
        report.memory = max(report.memory, share)
        if share > 1:
            raise Broken(f"{share:.0%} of the memory that is allowed")


def ms_per_mib(outcome: Outcome, frame: bytes) -> float:
    """Return how long the slowest path took for each MiB of the frame."""
    return 1000 * outcome.seconds / max(1.0, len(frame) / (1 << 20))


def tell(rng: Random, report: Report, findings: Path) -> None:
    """Read one damaged message."""
    kind, data = wire.message(rng)
    report.messages += 1
    try:
        wire.read(kind, data)
    except Exception:
        problem = traceback.format_exc()
        report.findings.append(f"{keep(kind + data, findings, problem)}: {problem.strip().splitlines()[-1]}")


def mapped(path: Path) -> mmap.mmap:
    """Return the bytes of a file that outlives this process, however it ends."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def main() -> None:
    """Run one process's share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--step", type=int, default=1, help="distance of the numbers")
    parser.add_argument("--frames", type=int, default=1 << 62)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--save", type=Path, default=Path("fuzz-out"), help="folder for inputs")
    parser.add_argument("--progress", type=Path, help="an existing file of 8 bytes, told which mutant is being taken")
    parser.add_argument("--only", type=int, help="write this mutant and end")
    given = parser.parse_args()
    if given.only is not None:
        frame, _ = mutant(given.seed, given.only, seeds(Random(given.seed)))
        print(keep(FRAME + frame, given.save))
        return
    numbers = range(given.first, given.first + given.step * given.frames, given.step)
    report = run(given.seed, numbers, given.seconds, given.save, given.progress and mapped(given.progress))
    print(json.dumps(report.__dict__))


if __name__ == "__main__":
    main()
