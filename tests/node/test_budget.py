import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.node.budget import Budget
from peermerge.node.gather import STALL_S
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.limits import CHUNK_BYTES


async def transfer(budget: Budget, size: int, messages: list[float]) -> None:
    """Send so many bytes in the budget's portions; note when each went out."""
    while size > 0:
        await budget.take(min(size, budget.portion))
        messages.append(asyncio.get_running_loop().time())
        size -= budget.portion


def ends(bytes_s: float, *sizes: int) -> list[list[float]]:
    """Return when the messages of transfers that start together went out, in virtual seconds."""

    async def program() -> list[list[float]]:
        budget = Budget(VirtualClock(), bytes_s)
        sent: list[list[float]] = [[] for _ in sizes]
        await asyncio.gather(*(transfer(budget, size, times) for size, times in zip(sizes, sent, strict=True)))
        return sent

    return run_virtual(program())


def test_without_a_budget_nothing_waits() -> None:
    assert Budget(VirtualClock()).portion == CHUNK_BYTES
    assert ends(0, 10 * CHUNK_BYTES) == [[0.0] * 10]


@pytest.mark.parametrize("bytes_s", [3e3, 1e6, 5e7, 1e9])
def test_all_transfers_together_keep_to_the_budget_and_share_it_alike(bytes_s: float) -> None:
    size = int(4 * bytes_s)
    times = ends(bytes_s, size, size, size)
    assert max(t[-1] for t in times) == pytest.approx(12, rel=1e-3)
    assert min(t[-1] for t in times) > 12 - 3 * max(0.05, 1024 / bytes_s) - 1e-6
    for sent in times:
        halfway = sum(at <= 6 for at in sent)
        assert halfway == pytest.approx(len(sent) / 2, abs=1)


def test_a_small_frame_does_not_wait_for_a_large_one() -> None:
    large, small = ends(1e6, 10_000_000, 100_000)
    assert small[-1] < 0.3
    assert large[-1] == pytest.approx(10.1)


@given(st.floats(1e5, 1e9), st.integers(1, 90))
def test_no_peer_gives_up_on_a_transfer_that_waits_for_its_turn(bytes_s: float, transfers: int) -> None:
    assert Budget(VirtualClock(), bytes_s).portion * transfers / bytes_s < STALL_S
