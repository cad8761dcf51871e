from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.node.backoff import CAP_S, FIRST_S, GROWTH, JITTER, Backoff, pause_s


class Middle(Random):
    """Draws the middle of every range."""

    def random(self) -> float:
        return 0.5


def test_pauses_grow_from_the_first_to_the_cap() -> None:
    pauses = [pause_s(k, Middle()) for k in range(1, 12)]
    assert pauses[:3] == [FIRST_S, FIRST_S * GROWTH, FIRST_S * GROWTH**2]
    assert pauses == sorted(pauses)
    assert pauses[-1] == CAP_S


@given(st.integers(1, 10**9), st.integers(0, 2**32))
def test_pauses_differ_from_the_usual_by_the_jitter_at_most(failures: int, seed: int) -> None:
    usual = pause_s(failures, Middle())
    assert usual * (1 - JITTER) <= pause_s(failures, Random(seed)) <= usual * (1 + JITTER)


def test_those_whom_one_fault_hit_do_not_come_back_at_once() -> None:
    assert len({pause_s(1, Random(seed)) for seed in range(20)}) == 20


def test_failures_put_the_next_attempt_off_and_a_success_forgets_them() -> None:
    backoff = Backoff()
    assert backoff.left_s(0.0) == 0
    backoff.fail(10.0, Middle())
    backoff.fail(10.0, Middle())
    assert backoff.failures == 2
    assert backoff.left_s(10.1) == pytest.approx(FIRST_S * GROWTH - 0.1)
    assert backoff.left_s(11.0) == 0
    backoff.reset()
    assert (backoff.failures, backoff.left_s(10.0)) == (0, 0)
