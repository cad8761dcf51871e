"""Pictures: same data, same bytes; large networks stay small files."""

from __future__ import annotations

from itertools import combinations

import pytest

plots = pytest.importorskip("peermerge.node.simulation.plots")

SERIES = {"a": ([1, 2, 3], [0.1, 0.2, 0.4]), "b": ([1, 2], [0.3, 0.4])}


def test_the_same_curves_are_the_same_bytes() -> None:
    first, second = (plots.curves(SERIES, "round", "accuracy", {"alone": 0.2}, log=True) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert "<metadata>" not in first


def test_the_mean_curve_goes_as_far_as_every_node() -> None:
    places, values = plots.mean_curve(SERIES)
    assert places == [1.0, 2.0]
    assert values == pytest.approx([0.2, 0.3])
    assert plots.mean_curve({}) == ([], [])


def test_links_that_carried_nothing_stay_blank() -> None:
    assert "<image" in plots.link_map(["a", "b"], {"a": {"b": 10}, "b": {}})


def test_a_graph_of_many_edges_is_drawn_as_an_image() -> None:
    names = [f"n{i:04d}" for i in range(120)]
    drawn = plots.circle(names, list(combinations(range(120), 2)))
    assert len(drawn) < 400_000
    assert "n0000" not in drawn
