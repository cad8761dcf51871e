"""Who comes back from the dead again and again waits longer each time."""

from __future__ import annotations

from peermerge.node.membership.returns import HOLD_S, MAX_HOLD_S, Returns


def earliest(returns: Returns, now: float) -> float:
    """Return when it may come back, and let it."""
    while not returns.may(now):
        now += 1.0
    returns.note(now)
    return now


def test_the_first_return_is_at_once_and_each_further_one_waits_twice_as_long() -> None:
    returns, now, gaps = Returns(), 5.0, []
    assert earliest(returns, now) == now
    for _ in range(6):
        then = earliest(returns, now)
        gaps.append(then - now)
        now = then
    assert gaps == [HOLD_S, 2 * HOLD_S, 4 * HOLD_S, MAX_HOLD_S, MAX_HOLD_S, MAX_HOLD_S]


def test_who_stayed_long_enough_starts_again() -> None:
    returns = Returns()
    now = earliest(returns, earliest(returns, 0.0))
    now = earliest(returns, now + 2 * MAX_HOLD_S)
    assert earliest(returns, now) == now + HOLD_S
