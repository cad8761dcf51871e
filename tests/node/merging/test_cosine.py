import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from peermerge.node.merging import Reference
from peermerge.node.merging.cosine import CosineFilter
from peermerge.protocol.errors import ConfigError

from .places import draw, merged, site


def merge(
    method: CosineFilter, rows: list[list[float]], reference: Reference = "base", weights: list[float] | None = None
) -> list[float]:
    found: list[float] = merged(method, [torch.tensor(row) for row in rows], reference, weights=weights).tolist()
    return found


def test_who_pulls_away_from_own_is_left_out() -> None:
    assert merge(CosineFilter(), [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]) == pytest.approx([0.8, 0.4])


def test_the_weights_are_those_of_who_is_left() -> None:
    rows = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]
    assert merge(CosineFilter(), rows, weights=[3.0, 1.0, 5.0]) == pytest.approx([0.9, 0.2])


@pytest.mark.parametrize(("threshold", "merged_y"), [(0.5, 0.4), (0.7, 0.0), (-1.0, 1.1 / 3)])
def test_the_threshold_is_a_cosine(threshold: float, merged_y: float) -> None:
    rows = [[1.0, 0.0], [0.6, 0.8], [-0.9, 0.3]]
    assert merge(CosineFilter(threshold), rows)[1] == pytest.approx(merged_y)


def test_who_is_left_is_clipped_to_the_median_norm_of_all() -> None:
    assert merge(CosineFilter(), [[1.0, 0.0], [50.0, 0.0], [-2.0, 0.0]]) == pytest.approx([1.5, 0.0])
    assert merge(CosineFilter(factor=2.0), [[1.0, 0.0], [50.0, 0.0], [-2.0, 0.0]]) == pytest.approx([2.5, 0.0])


def test_the_order_of_the_others_does_not_matter() -> None:
    own, *others = draw(5, 30, 3)
    straight = merged(CosineFilter(), [own, *others], "base")
    torch.testing.assert_close(merged(CosineFilter(), [own, *reversed(others)], "base"), straight)


def test_who_learnt_nothing_filters_nobody() -> None:
    assert merge(CosineFilter(), [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]) == pytest.approx([2 / 3, 0.0])


def test_relative_to_oneself_task_vectors_are_compared_not_differences() -> None:
    own = torch.tensor([1.0, 0.0])
    theirs = [torch.tensor([0.5, 0.5]), torch.tensor([-1.0, 0.5])]
    method = CosineFilter()
    at = replace(site(method, [0.5, 0.25, 0.25], (2,)), own=own)
    moved = method.correct([other - own for other in theirs], at)
    assert moved.tolist() == pytest.approx([-0.125, 0.125])


def test_relative_to_oneself_long_differences_are_clipped_to_the_median_distance() -> None:
    method, own = CosineFilter(), torch.tensor([1.0, 0.0])
    at = replace(site(method, [0.25, 0.25, 0.25, 0.25], (2,)), own=own)
    moved = method.correct([torch.tensor([x, 0.0]) for x in (1.0, 2.0, 60.0)], at)
    assert moved.tolist() == pytest.approx([(1 + 2 + 2) / 4, 0.0])


@pytest.mark.parametrize(("parameters", "says"), [({"threshold": 1.0}, "threshold"), ({"factor": 0.0}, "factor")])
def test_filters_that_let_nobody_pass_are_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CosineFilter(**parameters)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold = nan"):
        CosineFilter(threshold=math.nan)
