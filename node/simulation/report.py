"""report.html: one file without any reference to another, that shows a simulation at a glance."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config import SimulationConfig
from .nodes import pool_edges
from .outcome import Outcome
from .summary import Summary
from .table import facts, header, rows

Event = dict[str, Any]
Figure = Callable[[Event], float]

MISSING = "No report.html: matplotlib is not installed; pip install 'peermerge[examples]' brings it."

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #22262b; background: #fff; max-width: 1120px; margin: 2em auto;
  padding: 0 1em }}
h1 {{ font-size: 1.5em; margin-bottom: 0 }} h2 {{ font-size: 1.05em; margin: 0 0 .3em }} p {{ color: #555 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .25em .9em .25em 0; text-align: left;
  border-bottom: 1px solid #e4e6e9 }} td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5em }}
section svg {{ width: 100%; height: auto }} pre {{ background: #f5f6f7; padding: 1em; overflow: auto }}
</style></head><body>
<h1>{title}</h1><p>{lead}</p>
{tables}
<div class="plots">
{plots}
</div>
<h2>Configuration</h2><pre>{configuration}</pre>
</body></html>
"""


def write_report(path: Path, config: SimulationConfig, outcome: Outcome, summary: Summary) -> str:
    """Write the report; return an empty string, or a sentence that says why there is none."""
    if find_spec("matplotlib") is None:
        return MISSING
    path.write_text(page(config, outcome, summary))
    return ""


def page(config: SimulationConfig, outcome: Outcome, summary: Summary) -> str:
    """Return the page: a pure function of its arguments."""
    plots = _plots(config, outcome, summary)
    return PAGE.format(
        title=html.escape(f"{summary.nodes} nodes, {summary.rounds} rounds of {summary.task}"),
        lead=html.escape(
            f"Peermerge {summary.software}, {summary.topology} graph, {summary.network} network, seed {summary.seed}; "
            f"a node exchanges {summary.parameters:,} parameters."
        ),
        tables=_table(rows(summary), header(summary)) + _table(facts(summary)),
        plots="\n".join(f"<section><h2>{html.escape(title)}</h2>{svg}</section>" for title, svg in plots),
        configuration=html.escape("\n".join(flat(config.model_dump(mode="json")))),
    )


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield `key = value` lines with dotted keys, in the order of the file; what is unset is left out."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key} = {value!r}"


def _plots(config: SimulationConfig, outcome: Outcome, summary: Summary) -> Iterator[tuple[str, str]]:
    from . import plots  # here, so that everything else works without matplotlib

    metric, names = summary.metric, [node.name for node in outcome.nodes]
    events = [e for e in outcome.events if e["event"] == "round"]
    measured = [e for e in events if metric in e["metrics"]]
    figures = {name: each["nodes_mean"] for name, each in summary.metrics.items() if name != "merged"}
    levels = {name: each[metric] for name, each in figures.items() if metric in each}
    if measured:
        rounds = _series(measured, lambda e: e["round"] + 1, lambda e: e["metrics"][metric])
        sent = _series(measured, lambda e: e["bytes_out"] / 1e6, lambda e: e["metrics"][metric])
        yield f"{metric} of the nodes over rounds", plots.curves(rounds, "round", metric, levels)
        yield f"{metric} of the nodes over bytes", plots.curves(sent, "MB sent by a node", metric, levels)
    merged = [e for e in events if e["merged"]]
    if merged:
        apart = _series(merged, lambda e: e["round"] + 1, lambda e: e["consensus"])
        label = "distance to the neighbours (rms)"
        yield "consensus distance over rounds", plots.curves(apart, "round", label, {}, log=True)
    if any(node.links for node in outcome.nodes):
        yield "bytes per link", plots.link_map(names, {node.name: node.links for node in outcome.nodes})
    else:
        yield "bytes per node", plots.bars(names, summary.bytes_sent)
    yield f"topology: {summary.topology}", plots.circle(names, sorted(pool_edges(config)))


def _series(events: list[Event], x: Figure, y: Figure) -> dict[str, tuple[list[float], list[float]]]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for event in events:
        places, values = series.setdefault(event["node"], ([], []))
        places.append(x(event))
        values.append(y(event))
    return dict(sorted(series.items()))


def _table(lines: list[list[str]], head: list[str] | None = None) -> str:
    top = _line(head, "th") if head else ""
    return f"<table>{top}{''.join(_line(line, 'td') for line in lines)}</table>"


def _line(cells: list[str], tag: str) -> str:
    numbers = ("", *[" class=n"] * (len(cells) - 1))
    return f"<tr>{''.join(f'<{tag}{n}>{html.escape(c)}</{tag}>' for n, c in zip(numbers, cells, strict=True))}</tr>"
