"""The figures that need arithmetic of their own."""

from __future__ import annotations

import pytest

from peermerge.node.simulation.outcome import NodeOutcome
from peermerge.node.simulation.summary import headline, models_sent


def test_models_sent_are_bytes_over_meetings_and_dense_size() -> None:
    # 4,000 and 2,000 bytes in 10 meetings each, 100 parameters of 4 bytes: 1 and 0.5 models.
    nodes = [NodeOutcome(name="a", bytes_out=4_000), NodeOutcome(name="b", bytes_out=2_000)]
    assert models_sent(nodes, {"a": 10, "b": 10}, 100) == pytest.approx(0.75)


def test_who_met_nobody_does_not_count() -> None:
    nodes = [NodeOutcome(name="a", bytes_out=400), NodeOutcome(name="b")]
    assert models_sent(nodes, {"a": 1, "b": 0}, 100) == 1.0
    assert models_sent(nodes[1:], {"b": 0}, 100) is None


def test_accuracy_stands_for_all_figures_where_there_is_one() -> None:
    assert headline({"loss": 1.0, "accuracy": 0.5}) == "accuracy"
    assert headline({"loss": 1.0, "bits": 0.5}) == "loss"
    assert headline({}) == ""
