"""A whole simulation: the run, its baselines, its figures and the files about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...protocol.errors import ConfigError
from ..config import SimulationConfig
from ..merging import make_method
from ..schedule import Schedule
from .baselines import play_baseline
from .mean import Judge
from .memory import play_memory
from .nodes import check_ends, pool_edges
from .outcome import NodeFailed, Observer, Outcome
from .processes import play_processes
from .report import write_report
from .summary import Summary, summarise


@dataclass(frozen=True, slots=True)
class Simulated:
    """The figures, and a sentence with the end of the log for every node that did not finish."""

    summary: Summary
    failures: list[str]


def simulate(config: SimulationConfig, out: Path, observer: Observer) -> Simulated:
    """Run a simulation with its baselines and write summary.json, metrics.jsonl and report.html into `out`.

    Raises ConfigError before anything runs, NodeFailed if no node finished.
    """
    check(config)
    judge = Judge(config)
    make_folder(out)
    outcome = _play(config, out, judge, observer)
    rounds = config.schedule.rounds
    failures = [
        f"{node.name} finished {node.finished_rounds} of {rounds} rounds: {node.failure}"
        for node in outcome.nodes
        if node.finished_rounds < rounds
    ]
    write_metrics(out / "metrics.jsonl", outcome.events)
    if not any(node.weights for node in outcome.nodes):
        raise NodeFailed("\n".join(failures) or "no node left any weights")
    names: tuple[str, ...] = tuple(dict.fromkeys(config.simulation.baselines))
    baselines = {name: play_baseline(name, config, judge, observer) for name in names}
    summary = summarise(config, outcome, judge, baselines)
    (out / "summary.json").write_text(json.dumps(summary.to_json(), indent=1) + "\n")
    missing = write_report(out / "report.html", config, outcome, summary)
    if missing:
        observer.note(missing)
    return Simulated(summary, failures)


def check(config: SimulationConfig) -> None:
    """Raise ConfigError for what no node could start with, before any is made."""
    check_ends(config)
    Schedule(**config.schedule.model_dump())
    pool_edges(config)
    make_method(config.merge.method, config.merge.parameters, config.merge.after)


def make_folder(out: Path) -> None:
    """Make the folder for the results; raises ConfigError where that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror or error}") from error


def write_metrics(path: Path, events: list[dict[str, Any]]) -> None:
    """Write one event a line, keys sorted: on the memory network equal seeds give equal bytes."""
    path.write_text("".join(json.dumps(event, sort_keys=True) + "\n" for event in events))


def _play(config: SimulationConfig, out: Path, judge: Judge, observer: Observer) -> Outcome:
    if config.simulation.network == "grpc":
        return play_processes(config, out, judge, observer)
    observer.phase("merging", config.simulation.nodes * config.schedule.rounds)
    return play_memory(config, observer)
