"""A suspicion ends the sooner, the more members share it."""

from __future__ import annotations

import pytest

from peermerge.node.membership.suspicion import ALONE, CONFIRMED, Suspicion


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
