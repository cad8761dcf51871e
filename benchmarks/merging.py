"""What merging files costs beside mergekit: CPU seconds and memory for the same models, side by side in one run.

A random Llama-shaped model of 134 M parameters in bfloat16 and four fine-tunes of it, written as Hugging Face folders,
are merged by `peermerge merge` and by mergekit-yaml in turn, with equal parameters, each in a process of its own. CPU
is user and system time of the process, once whole and once less what a process takes that only imports the tool
(*net*); memory is the peak of the resident set. `sparse`: four deltas already at 5 % elected into a dense model in
memory, beside mergekit's TIES of dense files. Last, methods of one tensor at a time in memory, float32, in copies of
all that they read and write; `elementwise` is the worst of those that do nothing but pass over memory.

mergekit 0.1.5 is installed with pip into an environment of its own in the cache folder, with this torch's version, once
(about 1 GB); `--mergekit-python` names one that is there. Both tools run as they come; `--threads 1` gives both one.
Models lie in the cache folder while the benchmark runs (1.7 GB). `--quick` merges a model of 21 M parameters by two
methods and installs nothing: without mergekit there are no ratios. On so small a model they are mostly noise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import _merging_child
import _merging_memory
import _merging_models
import torch
from _common import ERR, arguments, show, write
from _merging_models import BASE, TUNED, Shape
from _minilm import default_cache

MERGEKIT = "0.1.5"
IMPORT_OURS = "import torch, peermerge.node.cli, peermerge.node.commands.merge"
IMPORT_THEIRS = "import torch, mergekit.scripts.run_yaml"
OURS = "from peermerge.node.cli import main; main()"
TOOLS = ("ours", "mergekit")
MEASURES = ("net CPU s", "CPU s", "wall s", "MB")
KEYS = ("cpu", "whole_cpu", "wall", "rss")
"""Of the same in the figures; `cpu` is net of imports."""
SMALL = Shape(layers=4, hidden=512, mlp=1408, words=8000)

Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Job:
    """A merge in both tools' words; parameters are ours and, under their own names, mergekit's."""

    key: str
    method: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    theirs: Mapping[str, float] = field(default_factory=dict)
    base: bool = True
    repeats: int = 1
    """What takes hardly longer than importing is repeated, and the least counts."""

    def ours(self, models: Path, out: Path) -> list[str]:
        """Return our command line."""
        settings = [f"--set={name}={value}" for name, value in self.parameters.items()]
        base = ["--base", str(models / BASE)] if self.base else []
        inputs = [str(models / name) for name in TUNED]
        return ["merge", *base, "--method", self.method, *settings, *inputs, "-o", str(out)]

    def recipe(self, models: Path) -> str:
        """Return mergekit's recipe; JSON is YAML."""
        recipe = {
            "merge_method": self.key,
            "dtype": "bfloat16",
            "parameters": {"weight": 1.0, **(self.theirs or self.parameters)},
            "models": [{"model": str(models / name)} for name in TUNED],
        }
        return json.dumps(recipe | ({"base_model": str(models / BASE)} if self.base else {}))


DENSITY = {"density": 0.5}
JOBS = (
    Job("linear", "weighted-mean", base=False, repeats=3),
    Job("task_arithmetic", "task-arithmetic", repeats=3),
    Job("ties", "ties", DENSITY),
    Job("dare_ties", "dare-ties", DENSITY),
    Job("della", "della", DENSITY),
    Job("sce", "sce", {"density": 0.1}, {"select_topk": 0.1}, repeats=3),
    Job("breadcrumbs", "breadcrumbs", DENSITY),
)
QUICK = ("linear", "ties")


@dataclass(frozen=True, slots=True)
class Took:
    """What a process took: CPU and wall seconds, and the peak of its resident memory."""

    cpu: float
    wall: float
    mb: float


def run(command: Sequence[str], threads: int) -> Took:
    """Run a command to its end and measure it. Raises SystemExit with its last words if it fails."""
    limited = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    environment = {**os.environ, **limited}
    measured = [sys.executable, _merging_child.__file__, *command]
    done = subprocess.run(measured, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def install(cache: Path, quick: bool) -> str | None:
    """Return the Python of an environment with mergekit; make it unless in a hurry."""
    torch_version = torch.__version__.partition("+")[0]
    folder = cache / f"mergekit-{MERGEKIT}-torch-{torch_version}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "installed").exists():
        if quick:
            return None
        ERR.print(f"installing mergekit {MERGEKIT} into {folder}", highlight=False)
        venv.create(folder, clear=True, with_pip=True)
        packages = [f"torch=={torch_version}", f"mergekit=={MERGEKIT}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "installed").touch()
    return str(python)


class Contest:
    """Both tools on the same models."""

    def __init__(self, folder: Path, theirs: str | None, threads: int) -> None:
        self._folder, self._theirs, self._threads = folder, theirs, threads

    def imports(self, repeats: int) -> list[Took]:
        """Return what importing takes, ours and theirs."""
        tools = [[sys.executable, "-c", IMPORT_OURS], *([[self._theirs, "-c", IMPORT_THEIRS]] if self._theirs else [])]
        turns = [[run(tool, self._threads) for tool in tools] for _ in range(repeats + 1)]
        return least(turns[1:])  # the first one reads files that the disk still has

    def merge(self, job: Job) -> list[Took]:
        """Return what a merge takes, ours and theirs."""
        return least([self._turn(job) for _ in range(job.repeats)])

    def _turn(self, job: Job) -> list[Took]:
        out = self._folder / "out"
        took = [run([sys.executable, "-c", OURS, *job.ours(self._folder, out)], self._threads)]
        shutil.rmtree(out)
        if self._theirs:
            recipe = self._folder / "recipe.yaml"
            recipe.write_text(job.recipe(self._folder))
            command = [self._theirs, "-m", "mergekit.scripts.run_yaml", "--quiet", "--no-copy-tokenizer"]
            took.append(run([*command, str(recipe), str(out)], self._threads))
            shutil.rmtree(out)
        return took


def least(turns: Sequence[Sequence[Took]]) -> list[Took]:
    """Return each tool's turn of least CPU."""
    return [min(of_tool, key=lambda took: took.cpu) for of_tool in zip(*turns, strict=True)]


def compare(contest: Contest, jobs: Sequence[Job], repeats: int) -> Figures:
    """Run all merges, print them, return the figures."""
    imports = contest.imports(repeats)
    alone = [[t, f"{i.cpu:.2f}", f"{i.wall:.2f}", f"{i.mb:.0f}"] for t, i in zip(TOOLS, imports, strict=False)]
    show("imports alone", ["tool", "CPU s", "wall s", "MB"], alone)
    rows: list[list[object]] = []
    figures: Figures = {}
    for job in jobs:
        took = contest.merge(job)
        ERR.print(f"{job.key}: {took}", highlight=False)
        net = [t.cpu - i.cpu for t, i in zip(took, imports, strict=True)]
        sides = [net, [t.cpu for t in took], [t.wall for t in took], [t.mb for t in took]]
        cells = [
            " / ".join(f"{value:.{digits}f}" for value in side)
            for side, digits in zip(sides, (1, 1, 1, 0), strict=True)
        ]
        rows.append([job.key, *cells, *(f"{side[0] / side[1]:.2f}" if len(side) == 2 else "" for side in sides)])
        figures |= {f"{job.key}_{key}": side[0] for key, side in zip(KEYS, sides, strict=True)}
        if len(took) == 2:
            figures |= {f"{job.key}_{key}_over_mergekit": a / b for key, (a, b) in zip(KEYS, sides, strict=True)}
            figures |= {f"{job.key}_{key}_mergekit": b for key, (_, b) in zip(KEYS, sides, strict=True)}
    show("merging files: ours / mergekit", ["method", *MEASURES, *(f"{name} ratio" for name in MEASURES)], rows)
    worst = [float(value) for name, value in figures.items() if name.endswith("_rss_over_mergekit")]
    return figures | ({"rss_over_mergekit": max(worst)} if worst else {})


def in_memory(shape: Shape, quick: bool, dense: float | None) -> Figures:
    """Run the merges in memory; `dense` are mergekit's seconds for its TIES."""
    dimensions = [str(x) for x in (shape.layers, shape.hidden, shape.mlp, shape.words)]
    size = ["--log2", "22" if quick else "25", "--repeats", "3" if quick else "9"]
    command = [sys.executable, _merging_memory.__file__, *size, *dimensions]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    elected = seconds.pop("sparse")
    rows = [[f"{name}, over memcpy", value] for name, value in seconds.items()]
    rows.append(["four deltas of 5 % elected, CPU s", elected])
    figures: Figures = {f"{name.replace('-', '_')}_over_memcpy": value for name, value in seconds.items()}
    worst = max(seconds[name] for name in _merging_memory.ELEMENTWISE)
    figures |= {"elementwise_over_memcpy": worst, "sparse5_cpu": elected}
    if dense is not None:
        figures["sparse5_over_mergekit_ties"] = elected / dense
        rows.append(["the same, over mergekit's net CPU of a dense TIES", elected / dense])
    show("merging in memory, one thread", ["what", "figure"], rows)
    return figures


def main() -> None:
    """Run everything, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--mergekit-python", metavar="PYTHON", help="of an environment that has mergekit")
    parser.add_argument("--threads", type=int, default=0, help="of both tools' torch; 0: as they come")
    parser.add_argument("--methods", nargs="+", choices=[job.key for job in JOBS])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="for mergekit and the models")
    given: argparse.Namespace = parser.parse_args()
    shape = SMALL if given.quick else Shape()
    theirs = given.mergekit_python or install(given.cache, given.quick)
    given.cache.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="merging-", dir=given.cache))
    try:
        dimensions = [str(x) for x in (shape.layers, shape.hidden, shape.mlp, shape.words)]
        subprocess.run([sys.executable, _merging_models.__file__, str(folder), *dimensions], check=True)
        ERR.print(f"{shape.parameters / 1e6:.1f} M parameters, load average {os.getloadavg()[0]:.1f}", highlight=False)
        wanted = given.methods or (QUICK if given.quick else [job.key for job in JOBS])
        jobs = [job for job in JOBS if job.key in wanted]
        figures = compare(Contest(folder, theirs, given.threads), jobs, 1 if given.quick else 3)
    finally:
        shutil.rmtree(folder)
    dense = figures.get("ties_cpu_mergekit")
    figures |= in_memory(shape, given.quick, float(dense) if dense else None)
    write(given.json, figures)


if __name__ == "__main__":
    main()
