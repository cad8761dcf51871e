"""A summary as lines of text, for the terminal and the report alike."""

from __future__ import annotations

from .summary import Summary

WHAT = {
    "merged": "merged (this run)",
    "alone": "alone, never merging",
    "dense": "dense, everything sent",
    "central": "central, all data in one place",
}


def header(summary: Summary) -> list[str]:
    """Return the columns' titles."""
    return ["", f"{summary.metric}: mean model", "mean of the nodes", "MB sent per node"]


def rows(summary: Summary) -> list[list[str]]:
    """Return a row for the run and for each baseline."""
    return [
        [
            WHAT[name],
            _figure(summary.metric, figures["mean_model"].get(summary.metric)),
            _figure(summary.metric, figures["nodes_mean"].get(summary.metric)),
            f"{figures['bytes_sent_per_node'] / 1e6:.3f}",
        ]
        for name, figures in summary.metrics.items()
    ]


def facts(summary: Summary) -> list[list[str]]:
    """Return what else is worth a line: name and value."""
    sent, seconds = summary.models_per_node_neighbour_round, summary.seconds_per_round_beyond_training
    lines = [["consensus distance (rms distance of a node to the mean model)", f"{summary.consensus_distance:.4g}"]]
    if sent is not None:
        lines.insert(0, ["models sent per node, neighbour and merging round (of 4 bytes a parameter)", f"{sent:.4f}"])
    if seconds is not None:
        lines.append(["seconds per node and merging round beyond training", f"{seconds:.3f}"])
    return lines


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4f}"
