import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peermerge.node.merging.metric_weights import Curve, weights_by_loss, weights_by_steps
from peermerge.protocol.errors import ConfigError

modest = settings(max_examples=50, deadline=None)
curves = pytest.mark.parametrize("curve", ["power", "softmax"])
losses_drawn = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


def test_the_best_weighs_twice_the_worst_at_the_power_of_one() -> None:
    assert weights_by_loss([1.0, 2.0, 3.0]) == pytest.approx((2 / 4.5, 1.5 / 4.5, 1 / 4.5))


def test_the_softmax_of_ranks() -> None:
    total = 1 + math.exp(0.5)
    assert weights_by_loss([3.0, 1.0], beta=0.5, curve="softmax") == pytest.approx((1 / total, math.exp(0.5) / total))


def test_more_steps_weigh_more() -> None:
    assert weights_by_steps([100, 300]) == pytest.approx((1 / 3, 2 / 3))


@curves
def test_equal_metrics_and_beta_zero_give_equal_weights(curve: Curve) -> None:
    assert weights_by_loss([0.7] * 4, curve=curve) == pytest.approx((0.25,) * 4)
    assert weights_by_loss([1.0, 5.0, 9.0], beta=0.0, curve=curve) == pytest.approx((1 / 3,) * 3)


def test_a_liar_gets_no_more_than_twice_an_equal_share() -> None:
    weights = weights_by_loss([-1e9, 1.0, 1.1, 0.9], beta=10.0)
    assert weights == pytest.approx((0.5, 1 / 6, 1 / 6, 1 / 6))


def test_nobody_gets_less_than_half_an_equal_share() -> None:
    weights = weights_by_loss([1.0, 1.0, 1.0, 1e9], beta=10.0)
    assert weights == pytest.approx((0.875 / 3, 0.875 / 3, 0.875 / 3, 0.125))


@curves
@modest
@given(losses=losses_drawn, beta=st.floats(-50, 50))
def test_weights_keep_their_bounds_and_sum_to_one(losses: list[float], beta: float, curve: Curve) -> None:
    weights, count = weights_by_loss(losses, beta, curve), len(losses)
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)
    assert all(0.5 / count - 1e-12 <= weight <= 2 / count + 1e-12 for weight in weights)


@curves
@modest
@given(losses=losses_drawn)
def test_lower_losses_never_weigh_less(losses: list[float], curve: Curve) -> None:
    weights = weights_by_loss(losses, 3.0, curve)
    ranked = [weight for _, weight in sorted(zip(losses, weights, strict=True), key=lambda pair: pair[0])]
    assert ranked == sorted(ranked, reverse=True)


def test_nobody_and_somebody_alone() -> None:
    assert weights_by_loss([]) == ()
    assert weights_by_loss([3.0]) == pytest.approx((1.0,))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_metrics_that_are_no_numbers_are_refused(loss: float) -> None:
    with pytest.raises(ConfigError, match="metric 1"):
        weights_by_loss([1.0, loss])


def test_a_beta_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta"):
        weights_by_loss([1.0], beta=math.nan)
