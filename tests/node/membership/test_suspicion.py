"""A suspicion ends the sooner, the more members share it."""

from __future__ import annotations

import pytest

from peermerge.node.membership.suspicion import ALONE, CONFIRMED, Suspicion, Suspicions
from peermerge.protocol.clock import VirtualClock, run_virtual


def test_each_witness_shortens_it_down_to_the_shortest() -> None:
    suspicion = Suspicion(10.0, 2.0, members=8)
    ends = [suspicion.ends]
    for name in ("me", "me", "a", "b", "c", "d"):
        suspicion.witness(name)
        ends.append(suspicion.ends)
    assert ends[0] == ends[1] == ends[2] == 10 + ALONE * 2.0
    assert ends[2] > ends[3] > ends[4] > ends[5]
    assert ends[5] == ends[6] == 12.0


@pytest.mark.parametrize(("members", "enough"), [(2, 1), (3, 2), (4, 3), (5, CONFIRMED), (9, CONFIRMED)])
def test_in_a_small_mesh_all_others_are_enough(members: int, enough: int) -> None:
    suspicion = Suspicion(0.0, 2.0, members)
    for number in range(enough):
        assert (suspicion.ends == 2.0) == (enough == 1)
        suspicion.witness(str(number))
    assert suspicion.ends == 2.0


def test_it_takes_longer_in_a_large_mesh_where_word_travels_longer() -> None:
    assert Suspicion(0.0, 2.0, members=1000).ends == pytest.approx(3 * Suspicion(0.0, 2.0, members=10).ends)


def test_it_can_be_put_off() -> None:
    suspicion = Suspicion(0.0, 2.0, members=2)
    suspicion.postpone(5.0)
    assert suspicion.ends == 7.0


def test_a_new_suspicion_takes_the_place_of_the_old_one() -> None:
    async def program() -> None:
        suspicions = Suspicions(VirtualClock(), 2.0)
        old = suspicions.open("a", members=8)
        assert suspicions.stands("a", old)
        new = suspicions.open("a", members=8)
        assert not suspicions.stands("a", old)
        assert suspicions.stands("a", new)
        suspicions.close("a")
        assert not suspicions.stands("a", new)

    run_virtual(program())


def test_it_is_ripe_after_the_shortest_time_whoever_shares_it() -> None:
    async def program() -> None:
        clock = VirtualClock()
        suspicions = Suspicions(clock, 2.0)
        suspicions.open("a", members=8)
        await clock.sleep(1.5)
        suspicions.witness("a", by="b")
        suspicions.witness("nobody", by="b")
        assert not suspicions.ripe("a")
        await clock.sleep(0.5)
        assert suspicions.ripe("a")
        assert not suspicions.ripe("nobody")

    run_virtual(program())


def test_the_latest_who_did_not_answer_are_told_until_they_answer_or_are_suspected_no_more() -> None:
    suspicions = Suspicions(VirtualClock(), 2.0)
    assert [suspicions.doubt(name) for name in ("a", "b", "a", "c", "d")] == [True, True, False, True, True]
    assert suspicions.doubts(3) == ("b", "c", "d")
    suspicions.trust("b")
    suspicions.close("d")
    assert suspicions.doubts(3) == ("a", "c")
