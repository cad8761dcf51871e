"""Fuzz everything that strangers' bytes reach: three engines, one table; status 1 if anything was found.

python -m tests.fuzz --seconds 600 --jobs 2         what `make fuzz` does
python -m tests.fuzz --frames 1000000 --seed 7      so many mutants exactly, each compiled and in numpy; no other engine
python -m tests.fuzz --replay build/fuzz/X.bin ...  what becomes of kept inputs

Each engine gets a third of the processor time. Engines are processes of their own: one that is killed is a finding too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from time import monotonic

from .inputs import check
from .mutation import BLOCK, Report

LONGEST_S = 7200
"""An engine that takes longer hangs."""
START_S = 3
"""So long a process takes to begin."""
ROOT = Path(__file__).parents[2]
KERNELS = ("on", "off")
"""What PEERMERGE_KERNEL says to the processes of the first engine: compiled, numpy."""


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    given = arguments()
    if given.replay:
        for path in given.replay:
            print(f"{path}: {check(path.read_bytes())}")
        return 0
    print(f"seed {given.seed}", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    began = monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        parts = [pool.submit(mutation, given, part, kernel) for part in range(given.jobs) for kernel in KERNELS]
        others = [pool.submit(extreme, kernel) for kernel in KERNELS]
        others += [] if given.frames else [pool.submit(guided, given), pool.submit(generative, given)]
        reports = [part.result() for part in parts]
        lines, findings = [], differences(reports)
        for other in others:
            told, found = other.result()
            lines.append(told)
            findings += found
    for kernel in KERNELS:
        total = Report(compiled=False)
        for report in reports[KERNELS.index(kernel) :: len(KERNELS)]:
            total.compiled = report.compiled
            total.add(report)
        lines += table(total)
        findings += total.findings
    summary = f"{monotonic() - began:.0f} s, {len(findings)} findings in {given.out}"
    print("\n".join((*lines, summary, *findings)))
    return 1 if findings else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--frames", type=int, default=0, help="mutants of the first engine, and that engine alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes at one time")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder for findings and new inputs")
    parser.add_argument("--replay", type=Path, nargs="+", help="inputs to take, instead of fuzzing")
    return parser.parse_args()


def engine(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an engine to its end and return what it wrote."""
    command = [sys.executable, "-m", f"{__package__}.{name}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    try:
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{name} did not end within {LONGEST_S} s")


def mutation(given: argparse.Namespace, part: int, kernel: str) -> Report:
    """Run one process of the first engine: every `jobs`-th mutant, from `part` on."""
    progress = given.out / f"progress-{part}-{kernel}"
    progress.write_bytes(bytes(8))
    options = [
        "--seed",
        str(given.seed),
        "--first",
        str(part),
        "--step",
        str(given.jobs),
        "--save",
        str(given.out.absolute()),
    ]
    options += ["--progress", str(progress.absolute())]
    if given.frames:
        options += ["--frames", str(len(range(part, given.frames, given.jobs)))]
    else:
        options += ["--seconds", str(given.seconds / 3 / len(KERNELS) - START_S)]
    ended = engine("mutation", *common(given), *options, PEERMERGE_KERNEL=kernel)
    number = int.from_bytes(progress.read_bytes(), "little")
    progress.unlink()
    if ended.returncode:
        again = f"PEERMERGE_KERNEL={kernel} {__package__}.mutation --seed {given.seed} --only {number}"
        problem = f"mutation ended with {ended.returncode}: {again}\n{ended.stderr[-2000:]}"
        return Report(compiled=kernel == "on", findings=[problem])
    fields = json.loads(ended.stdout)
    return Report(**fields | {"outcomes": Counter(fields["outcomes"])})


def guided(given: argparse.Namespace) -> tuple[str, list[str]]:
    """Run the second engine; return what it did and what it found."""
    if find_spec("atheris") is None:
        return "guided: left out, atheris is not installed", []
    corpus = given.out.absolute() / "corpus"
    corpus.mkdir(exist_ok=True)
    options = [
        "--seed",
        str(given.seed),
        "--seconds",
        str(alone(given)),
        "--corpus",
        str(corpus),
        "--save",
        str(given.out.absolute()),
    ]
    ended = engine("guided", *options)
    counts = {words[0]: words[-1] for line in ended.stderr.splitlines() if (words := line.split())}
    inputs, new = (counts.get(f"stat::{name}:", "?") for name in ("number_of_executed_units", "new_units_added"))
    return f"guided: {inputs} inputs, {new} of them reached something new", failed("guided", ended)


def generative(given: argparse.Namespace) -> tuple[str, list[str]]:
    """Run the third engine; return what it did and what it found."""
    ended = engine("generative", "--seed", str(given.seed), "--seconds", str(alone(given)))
    return f"generative: {ended.stdout.strip()}", failed("generative", ended)


def extreme(kernel: str) -> tuple[str, list[str]]:
    """Time the frames that cost most; return what they took."""
    ended = engine("extremes", PEERMERGE_KERNEL=kernel)
    return ended.stdout.strip(), failed("extremes", ended)


def common(given: argparse.Namespace) -> tuple[str, ...]:
    """Return the options of engines that keep what they find."""
    return "--seed", str(given.seed), "--save", str(given.out.absolute())


def alone(given: argparse.Namespace) -> int:
    """Return the seconds of an engine that is one process."""
    seconds: float = given.seconds / 3 * min(given.jobs, 2)
    return max(1, round(seconds - START_S))


def failed(name: str, ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the end of what a failed engine wrote."""
    return (
        [f"{name} ended with {ended.returncode}\n{ended.stdout[-1000:]}{ended.stderr[-4000:]}"]
        if ended.returncode
        else []
    )


def differences(reports: list[Report]) -> list[str]:
    """Say where compiled loops and numpy came to another outcome; pairs of reports are of the same mutants."""
    found = []
    for part, pair in enumerate(zip(reports[::2], reports[1::2], strict=True)):
        equal = [one == other for one, other in zip(pair[0].blocks, pair[1].blocks, strict=False)]
        if False in equal:
            block = equal.index(False)
            found.append(f"compiled and numpy differ within the {BLOCK} mutants from {BLOCK * block} of part {part} on")
    return found


def table(report: Report) -> list[str]:
    """Return the lines that say what the first engine did with one kind of loops."""
    kind = "compiled" if report.compiled else "numpy"
    passed = report.passed / max(1, report.frames)
    return [
        f"mutation, {kind}: {report.frames} frames, {passed:.1%} passed header and tables; {report.messages} messages",
        "    " + ", ".join(f"{name} {count}" for name, count in report.outcomes.most_common()),
        f"    slowest {report.slowest:.1f} ms per MiB; most memory {report.memory:.1%} of 2 MB + 8 bytes per parameter",
    ]


if __name__ == "__main__":
    sys.exit(main())
