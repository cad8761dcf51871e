"""The pictures of a report, as SVG text. The only file that needs matplotlib; same data, same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""For each node, places and values."""

OURS, GREY = "#1f6f8b", "#8a8f98"
LEVELS = {"alone": "#b5651d", "dense": "#6a8d3b", "central": "#7a5195"}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "peermerge",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
MOST_LINES = 5_000
"""Beyond this many, lines are drawn as an image: a thousand nodes' graph as vectors is no file to open."""


def curves(series: Series, x: str, y: str, levels: Mapping[str, float], *, log: bool = False) -> str:
    """Draw one thin line a node, their mean, and a dashed level for each baseline."""
    figure, axes = _figure(x, y)
    for places, values in series.values():
        axes.plot(places, values, color=OURS, alpha=0.35, linewidth=0.8)
    axes.plot(*mean_curve(series), color=OURS, linewidth=2.2, label="mean of the nodes")
    for name, level in levels.items():
        axes.axhline(level, color=LEVELS.get(name, GREY), linestyle="--", linewidth=1.2, label=name)
    positive = [v for _, values in series.values() for v in values if v > 0]
    if log and positive:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def mean_curve(series: Series) -> tuple[list[float], list[float]]:
    """Return the mean over the nodes of the n-th place and of the n-th value, as far as all nodes got."""
    length = min((len(places) for places, _ in series.values()), default=0)
    places = np.array([p[:length] for p, _ in series.values()], dtype=float)
    values = np.array([v[:length] for _, v in series.values()], dtype=float)
    return (places.mean(0).tolist(), values.mean(0).tolist()) if length else ([], [])


def link_map(names: Sequence[str], links: Mapping[str, Mapping[str, int]]) -> str:
    """Draw the bytes that each node (row) sent to each other (column)."""
    sent = np.array([[links[a].get(b, 0) for b in names] for a in names], dtype=float)
    figure, axes = _figure("to", "from")
    image = axes.imshow(np.where(sent > 0, sent / 1e3, np.nan), cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="kB sent")
    axes.grid(visible=False)
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    return _svg(figure)


def bars(names: Sequence[str], sent: Mapping[str, int]) -> str:
    """Draw the bytes that each node sent."""
    figure, axes = _figure("", "kB sent")
    axes.bar(range(len(names)), [sent[name] / 1e3 for name in names], color=OURS)
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, fontsize=8)
    axes.grid(visible=False, axis="x")
    return _svg(figure)


def circle(names: Sequence[str], edges: Sequence[tuple[int, int]]) -> str:
    """Draw the nodes on a circle, the first on top, and a line for each pair that merges."""
    figure, axes = _figure("", "")
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / max(1, len(names))
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lines = [(places[i], places[j]) for i, j in sorted(edges)]
    many = len(lines) > MOST_LINES
    alpha = min(0.7, max(0.02, 60 / max(1, len(lines))))
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=1.0, alpha=alpha, rasterized=many))
    axes.scatter(places[:, 0], places[:, 1], s=max(4, 500 / len(names)), color=OURS, zorder=3)
    if len(names) <= 40:
        for name, (x, y) in zip(names, places * (1.22, 1.14), strict=True):
            axes.text(x, y, name, ha="center", va="center", fontsize=8)
    axes.set_aspect("equal")
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.3, 1.3)
    axes.axis("off")
    return _svg(figure)


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.8), layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    # The page gives the size; the picture keeps its shape by its viewBox.
    return re.sub(r' (width|height)="[0-9.]+pt"', "", text[text.index("<svg") :], count=2)
