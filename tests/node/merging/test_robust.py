"""What robust rules promise: some rows of whatever size do not move the result far from the honest ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peermerge.node.merging import Reference
from peermerge.node.merging.average import WeightedMean
from peermerge.node.merging.clipping import Clip, ClippedGossip
from peermerge.node.merging.cosine import CosineFilter
from peermerge.node.merging.krum import MultiKrum, NnmTrimmedMean
from peermerge.node.merging.median import CoordinateMedian, TrimmedMean
from peermerge.node.merging.robust import Robust
from peermerge.protocol.errors import ConfigError

from .places import merged

LENGTH = 12
both_references = pytest.mark.parametrize("reference", ["own", "base"])
modest = settings(max_examples=60, deadline=None)
faults = st.integers(1, 3)
spares = st.integers(0, 2)
seeds_drawn = st.integers(0, 2**31)
attacks = st.sampled_from(["noise", "collusion", "opposite", "hidden", "silent"])
sizes = st.sampled_from([1.0, 100.0, 1e6, 1e30])


def honest_rows(count: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(LENGTH, generator=random)
    return [centre + 0.3 * torch.randn(LENGTH, generator=random) for _ in range(count)]


def hostile_rows(honest: list[Tensor], count: int, attack: str, size: float, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed + 1)
    stacked = torch.stack(honest)
    mean, spread = stacked.mean(0), stacked.std(0, correction=0)
    if attack == "noise":
        return [size * torch.randn(LENGTH, generator=random) for _ in range(count)]
    together = {
        "collusion": size * torch.ones(LENGTH),
        "opposite": -size * mean,
        "hidden": mean - 1.5 * spread,
        "silent": torch.zeros(LENGTH),
    }
    return [together[attack].clone() for _ in range(count)]


def attacked(
    count: int, f: int, reference: Reference, attack: str, size: float, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the honest rows, oneself among them, and the deltas to merge: `count` rows in all, `f` of them hostile."""
    own = reference == "own"
    honest = honest_rows(count - f - own, seed)
    deltas = [*honest, *hostile_rows(honest, f, attack, size, seed)]
    order = torch.randperm(len(deltas), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.zeros(LENGTH)] * own + honest, [deltas[i] for i in order]


def diameter(rows: list[Tensor]) -> float:
    return max(float((a - b).norm()) for a in rows for b in rows)


def outside(result: Tensor, honest: list[Tensor]) -> float:
    """Return how far the furthest entry lies outside the range of the honest rows."""
    stacked = torch.stack(honest)
    return max(0.0, float((result - stacked.amax(0)).max()), float((stacked.amin(0) - result).max()))


@both_references
@modest
@given(f=faults, spare=spares, attack=attacks, size=sizes, seed=seeds_drawn)
def test_coordinate_rules_stay_within_the_honest_range(
    reference: Reference, f: int, spare: int, attack: str, size: float, seed: int
) -> None:
    honest, deltas = attacked(2 * f + 2 + spare, f, reference, attack, size, seed)
    for method in (CoordinateMedian(), TrimmedMean(f)):
        assert outside(merged(method, deltas, reference), honest) < 1e-5


@both_references
@modest
@given(f=faults, spare=spares, attack=attacks, size=sizes, seed=seeds_drawn)
def test_nearest_neighbour_mixing_stays_within_a_diameter_of_the_honest_range(
    reference: Reference, f: int, spare: int, attack: str, size: float, seed: int
) -> None:
    honest, deltas = attacked(2 * f + 2 + spare, f, reference, attack, size, seed)
    assert outside(merged(NnmTrimmedMean(f), deltas, reference), honest) < diameter(honest) + 1e-5


@both_references
@modest
@given(f=faults, spare=spares, attack=attacks, size=sizes, seed=seeds_drawn)
def test_multi_krum_stays_near_every_honest_row(
    reference: Reference, f: int, spare: int, attack: str, size: float, seed: int
) -> None:
    n = 2 * f + 3 + spare
    honest, deltas = attacked(n, f, reference, attack, size, seed)
    result = merged(MultiKrum(f), deltas, reference)
    bound = diameter(honest) * (1 + math.sqrt((n - f - 1) / (n - 2 * f)))
    assert max(float((result - row).norm()) for row in honest) < bound + 1e-4


@modest
@given(f=faults, spare=spares, attack=attacks, size=sizes, seed=seeds_drawn)
def test_clipped_gossip_moves_no_further_than_the_furthest_honest_neighbour(
    f: int, spare: int, attack: str, size: float, seed: int
) -> None:
    honest, deltas = attacked(f + 2 + spare, f, "own", attack, size, seed)
    furthest = max(float(row.norm()) for row in honest)
    assert float(merged(ClippedGossip(f), deltas, "own").norm()) <= furthest * (1 + 1e-5)


@modest
@given(f=faults, spare=spares, attack=attacks, size=sizes, seed=seeds_drawn)
def test_clipped_means_are_no_longer_than_the_longest_honest_delta(
    f: int, spare: int, attack: str, size: float, seed: int
) -> None:
    honest, deltas = attacked(2 * f + 1 + spare, f, "base", attack, size, seed)
    longest = max(float(row.norm()) for row in honest)
    for method in (Clip(factor=1.0), ClippedGossip(f), CosineFilter()):
        assert float(merged(method, deltas, "base").norm()) <= longest * (1 + 1e-5)


def test_a_plain_mean_would_fail_these_tests() -> None:
    honest, deltas = attacked(7, 2, "base", "collusion", 1e6, 0)
    result = merged(WeightedMean(), deltas, "base")
    assert outside(result, honest) > 100 * diameter(honest)


@pytest.mark.parametrize("rule", [TrimmedMean, MultiKrum, NnmTrimmedMean, ClippedGossip])
def test_without_hostile_contributors_every_rule_is_the_mean(rule: type[Robust]) -> None:
    rows = honest_rows(4, 5)
    torch.testing.assert_close(merged(rule(f=0), rows, "base"), torch.stack(rows).mean(0))


def test_a_quarter_of_the_others_is_taken_to_be_hostile_and_one_of_four() -> None:
    assert [TrimmedMean().tolerated(n) for n in range(1, 14)] == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert TrimmedMean(f=2).tolerated(3) == 2


def test_fewer_than_no_hostile_contributors_are_refused() -> None:
    with pytest.raises(ConfigError, match="f = -1"):
        MultiKrum(f=-1)
