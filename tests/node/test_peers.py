from random import Random

import pytest

from peermerge.node.peers import Peers
from peermerge.protocol.errors import FrameError, Refusal


def test_accounts_open_at_the_first_mention_and_add_up() -> None:
    peers = Peers()
    peers["bob"].bytes_in += 3
    peers["carol"].bytes_in += 4
    peers["carol"].bytes_out += 5
    assert (peers.bytes_in, peers.bytes_out, sorted(peers)) == (7, 5, ["bob", "carol"])
    assert Peers().bytes_in == 0


def test_failures_and_reasons_are_remembered() -> None:
    record = Peers()["bob"]
    record.fail(FrameError(Refusal.TRUNCATED, "3 of 4 bytes"))
    record.skip(Refusal.STALE)
    record.skip(Refusal.STALE)
    assert record.last_error.startswith("TRUNCATED")
    assert record.skipped == {"STALE": 2}


def test_who_missed_a_deadline_is_not_waited_for_until_it_comes_abreast() -> None:
    record = Peers()["bob"]
    assert record.deserves_waiting(0)
    record.miss(7)
    assert not record.waited_for
    assert not record.deserves_waiting(8)
    record.arrived(7, 9.0, 1.0, abreast=False)
    assert not record.deserves_waiting(8)
    record.arrived(7, 9.0, 1.0, abreast=True)
    assert record.deserves_waiting(8)


def test_who_keeps_missing_is_waited_for_ever_less() -> None:
    record, waits, round_ = Peers()["bob"], [], 0
    for _ in range(10):
        record.miss(round_)
        record.arrived(round_, 9.0, 1.0, abreast=True)
        started = round_
        round_ = next(r for r in range(round_ + 1, round_ + 100) if record.deserves_waiting(r))
        waits.append(round_ - started)
    # The first may be chance: it may have started its round later than we, and waiting brings it nearer.
    assert waits == [1, 1, 1, 2, 4, 8, 16, 16, 16, 16]


@pytest.mark.parametrize("in_time", [True, False], ids=["in time", "sooner than before"])
def test_who_is_not_waited_for_in_vain_rests_no_longer(in_time: bool) -> None:
    record = Peers()["bob"]
    for round_ in range(5):
        record.miss(round_)
    record.arrived(round_, 9.0, 1.0, abreast=True)
    assert not record.deserves_waiting(6)
    record.waited_for = in_time
    record.arrived(8, 9.0 if in_time else 8.0, 1.0, abreast=True)
    record.miss(20)
    record.arrived(20, 9.0, 1.0, abreast=True)
    assert record.deserves_waiting(21)


def test_who_comes_sooner_while_it_rests_is_no_nearer_for_that() -> None:
    record = Peers()["bob"]
    for round_ in range(5):
        record.miss(round_)
        record.arrived(round_, 9.0, 1.0, abreast=True)
    record.arrived(7, 8.0, 1.0, abreast=True)
    record.miss(8)
    record.arrived(8, 9.0, 1.0, abreast=True)
    assert not record.deserves_waiting(9)


def test_one_failure_may_be_chance_and_two_are_not_waited_for() -> None:
    record = Peers()["bob"]
    record.backoff.fail(0.0, Random(0))
    assert record.deserves_waiting(1)
    record.backoff.fail(0.0, Random(0))
    assert not record.deserves_waiting(1)


def test_another_life_of_a_peer_starts_over_and_is_waited_for_at_once() -> None:
    record = Peers()["bob"]
    record.backoff.fail(0.0, Random(0))
    for round_ in range(5):
        record.miss(round_)
    assert not record.deserves_waiting(6)
    record.start_over()
    assert record.backoff.left_s(0.0) == 0
    assert record.deserves_waiting(6)
