from __future__ import annotations

from dataclasses import replace

import pytest

from peermerge.coordinator.roster import MAX_MESHES, Roster
from peermerge.protocol.errors import EnvelopeError, PeerError, Refusal
from peermerge.protocol.limits import MAX_ADDRESS, MAX_MEMBERS, MAX_VIEW_EPOCH
from peermerge.protocol.members import Member, MemberState

from .worlds import KEY, claim, names

ALICE, BOB = claim("alice"), claim("bob", 2)


@pytest.fixture
def roster() -> Roster:
    return Roster(heartbeat_s=2.0, expire_s=6.0)


def test_who_joins_is_in_the_view_and_every_change_has_a_later_epoch(roster: Roster) -> None:
    first = roster.hear(KEY, ALICE, 0.0).epoch
    mesh = roster.hear(KEY, BOB, 0.0)
    assert list(mesh.members) == [ALICE, BOB]
    assert mesh.epoch > first > 0
    assert roster.unsaved == {KEY}


def test_a_heartbeat_that_brings_nothing_new_changes_no_view(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0)
    epoch, view = mesh.epoch, mesh.view()
    roster.unsaved.clear()
    roster.hear(KEY, ALICE, 1.0, round_=7, epoch=epoch)
    assert (mesh.epoch, mesh.view()) == (epoch, view)
    assert mesh.heard["alice"].round == 7
    assert not roster.unsaved


def test_who_is_silent_for_too_long_leaves_the_view_and_comes_back_with_a_heartbeat(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0)
    roster.hear(KEY, BOB, 5.0)
    roster.expire(6.0)
    assert list(mesh.members) == [ALICE, BOB]
    roster.expire(6.1)
    assert list(mesh.members) == [BOB]
    assert roster.counts["expiries"] == 1
    epoch = mesh.epoch
    roster.hear(KEY, ALICE, 7.0, epoch=epoch)
    assert list(mesh.members) == [ALICE, BOB]
    assert mesh.epoch > epoch


def test_time_that_we_slept_ourselves_makes_nobody_silent(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0)
    roster.forgive(30.0)
    roster.expire(31.0)
    assert list(mesh.members) == [ALICE]


def test_who_leaves_is_told_to_have_left_until_it_would_have_expired(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0)
    roster.hear(KEY, BOB, 0.0)
    roster.leave(KEY, BOB, 1.0)
    assert list(mesh.members) == [ALICE]
    assert names(mesh.view()) == {"alice": "ALIVE", "bob": "LEFT"}
    roster.hear(KEY, ALICE, 7.0)
    roster.expire(7.1)
    assert names(mesh.view()) == {"alice": "ALIVE"}
    assert roster.counts["expiries"] == 0


def test_a_heartbeat_that_was_on_its_way_does_not_undo_a_leave_but_a_new_start_does(roster: Roster) -> None:
    mesh = roster.hear(KEY, BOB, 0.0)
    roster.leave(KEY, BOB, 1.0)
    roster.hear(KEY, BOB, 1.1)
    assert list(mesh.members) == []
    again = claim("bob", 3, incarnation=2)
    roster.hear(KEY, again, 1.2)
    assert list(mesh.members) == [again]


def test_leaving_twice_does_not_keep_a_name_longer_from_coming_back(roster: Roster) -> None:
    mesh = roster.hear(KEY, BOB, 0.0)
    roster.leave(KEY, BOB, 1.0)
    roster.leave(KEY, BOB, 6.0)
    roster.expire(7.1)
    roster.hear(KEY, BOB, 7.2)
    assert list(mesh.members) == [BOB]


def test_only_the_member_at_its_address_leaves(roster: Roster) -> None:
    mesh = roster.hear(KEY, BOB, 0.0)
    for stranger in (claim("bob", 9), claim("carol")):
        with pytest.raises(PeerError) as raised:
            roster.leave(KEY, stranger, 1.0)
        assert raised.value.refusal is Refusal.UNKNOWN_SENDER
    assert list(mesh.members) == [BOB]


def test_a_name_in_use_is_not_given_away(roster: Roster) -> None:
    mesh = roster.hear(KEY, BOB, 0.0)
    for rival in (claim("bob", 9), claim("bob", 9, incarnation=0)):
        with pytest.raises(EnvelopeError, match="bob is at") as raised:
            roster.hear(KEY, rival, 1.0)
        assert raised.value.refusal is Refusal.DUPLICATE_ID
    assert list(mesh.members) == [BOB]


def test_a_restarted_member_is_known_at_once_and_one_that_lost_its_disk_when_the_old_one_is_silent(
    roster: Roster,
) -> None:
    mesh = roster.hear(KEY, BOB, 0.0)
    restarted = claim("bob", 9, incarnation=2)
    roster.hear(KEY, restarted, 0.1)
    assert list(mesh.members) == [restarted]
    wiped = claim("bob", 10, incarnation=1)
    roster.hear(KEY, wiped, 3.2)
    assert list(mesh.members) == [wiped]


def test_a_coordinator_that_forgot_goes_on_from_the_epochs_it_hears_of(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0, epoch=41)
    assert mesh.epoch == 42
    roster.hear(KEY, ALICE, 1.0, epoch=40)
    assert mesh.epoch == 42


def test_an_epoch_without_measure_leaves_room_for_more(roster: Roster) -> None:
    mesh = roster.hear(KEY, ALICE, 0.0, epoch=2**64 - 1)
    assert mesh.epoch == MAX_VIEW_EPOCH + 1
    roster.hear(KEY, BOB, 0.0, epoch=2**64 - 1)
    assert MAX_VIEW_EPOCH < mesh.epoch < 2**63
    mesh.view().SerializeToString()


def test_nobody_joins_dead(roster: Roster) -> None:
    for state in (MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT):
        with pytest.raises(EnvelopeError, match="joins as"):
            roster.hear(KEY, replace(ALICE, state=state), 0.0)
    assert not roster.meshes


def test_members_of_a_run_are_bounded_in_number(roster: Roster) -> None:
    for i in range(MAX_MEMBERS):
        mesh = roster.hear(KEY, Member(f"n{i}", "h:1"), 0.0)
    with pytest.raises(PeerError) as raised:
        roster.hear(KEY, ALICE, 0.0)
    assert raised.value.refusal is Refusal.BUDGET_EXCEEDED
    roster.hear(KEY, Member("n0", "h:2", 1), 0.0)
    assert len(mesh.members) == MAX_MEMBERS


def test_members_of_a_run_are_bounded_in_bytes_and_those_who_go_make_room(roster: Roster) -> None:
    long = "h" * (MAX_ADDRESS - 2) + ":1"
    room = (1 << 20) // (len(long) + 8)
    with pytest.raises(PeerError) as raised:
        _ = [roster.hear(KEY, Member(f"n{i}", long), 0.0) for i in range(room)]
    mesh = roster.find(KEY)
    assert raised.value.refusal is Refusal.BUDGET_EXCEEDED
    assert mesh.view().ByteSize() <= 1 << 20
    roster.hear(KEY, Member("n0", "h:1", 1), 10.0)
    roster.expire(10.0)
    assert list(mesh.members) == [Member("n0", "h:1", 1)]
    assert mesh.size == Roster(2.0, 6.0).hear(KEY, Member("n0", "h:1", 1), 0.0).size
    roster.hear(KEY, Member("late", long), 10.0)


def test_runs_are_bounded_and_one_without_members_makes_room(roster: Roster) -> None:
    for i in range(MAX_MESHES):
        roster.hear(("net", f"run{i}"), ALICE, 0.0 if i else -10.0)
    with pytest.raises(PeerError) as raised:
        roster.hear(KEY, ALICE, 0.0)
    assert raised.value.refusal is Refusal.BUDGET_EXCEEDED
    roster.expire(0.0)
    watched = roster.find(("net", "run0")).changed
    roster.unsaved.clear()
    roster.hear(KEY, ALICE, 0.0)
    assert watched.is_set()
    assert len(roster.meshes) == MAX_MESHES
    assert roster.unsaved == {KEY, ("net", "run0")}
    with pytest.raises(PeerError) as raised:
        roster.find(("net", "run0"))
    assert raised.value.refusal is Refusal.NETWORK_MISMATCH
